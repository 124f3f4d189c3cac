"""The table of all zoo models with their published parameter and multiply-accumulate counts; does not import torch."""

from __future__ import annotations

from deploytool.spec import Model, Option, Preprocessing, Tensor

Rows = tuple[tuple[str, dict[str, Option], int, int], ...]  # name, options, parameters, multiply-accumulates

SHUFFLENET: Rows = (
    ("shufflenet_g1_x0_25", {"groups": 1, "width": 0.25}, 209_746, 11_003_184),
    ("shufflenet_g1_x0_5", {"groups": 1, "width": 0.5}, 534_484, 38_517_408),
    ("shufflenet_g1_x0_75", {"groups": 1, "width": 0.75}, 975_214, 82_542_672),
    ("shufflenet_g1", {"groups": 1}, 1_531_936, 143_078_976),
    ("shufflenet_g1_x1_5", {"groups": 1, "width": 1.5}, 2_993_032, 308_096_352),
    ("shufflenet_g1_x2_0", {"groups": 1, "width": 2.0}, 4_918_744, 550_334_592),
    ("shufflenet_g2_x0_25", {"groups": 2, "width": 0.25}, 267_026, 11_156_596),
    ("shufflenet_g2_x0_5", {"groups": 2, "width": 0.5}, 643_932, 38_570_608),
    ("shufflenet_g2_x0_75", {"groups": 2, "width": 0.75}, 1_135_358, 82_233_804),
    ("shufflenet_g2", {"groups": 2}, 1_733_848, 140_836_512),
    ("shufflenet_g2_x1_5", {"groups": 2, "width": 1.5}, 3_272_312, 302_187_792),
    ("shufflenet_g2_x2_0", {"groups": 2, "width": 2.0}, 5_257_896, 539_138_624),
    ("shufflenet_g3_x0_25", {"groups": 3, "width": 0.25}, 305_902, 11_009_808),
    ("shufflenet_g3_x0_5", {"groups": 3, "width": 0.5}, 718_324, 37_589_856),
    ("shufflenet_g3_x0_75", {"groups": 3, "width": 0.75}, 1_238_266, 79_740_144),
    ("shufflenet_g3", {"groups": 3}, 1_865_728, 137_460_672),
    ("shufflenet_g3_x1_5", {"groups": 3, "width": 1.5}, 3_442_168, 292_443_552),
    ("shufflenet_g3_x2_0", {"groups": 3, "width": 2.0}, 5_450_776, 524_045_184),
    ("shufflenet_g4_x0_25", {"groups": 4, "width": 0.25}, 338_544, 11_814_440),
    ("shufflenet_g4_x0_5", {"groups": 4, "width": 0.5}, 778_040, 37_468_832),
    ("shufflenet_g4_x0_75", {"groups": 4, "width": 0.75}, 1_324_908, 80_136_024),
    ("shufflenet_g4", {"groups": 4}, 1_968_344, 134_339_776),
    ("shufflenet_g4_x1_5", {"groups": 4, "width": 1.5}, 3_574_032, 285_767_712),
    ("shufflenet_g4_x2_0", {"groups": 4, "width": 2.0}, 5_593_528, 510_289_536),
    ("shufflenet_g8_x0_25", {"groups": 8, "width": 0.25}, 454_504, 12_426_240),
    ("shufflenet_g8_x0_5", {"groups": 8, "width": 0.5}, 1_011_448, 40_469_760),
    ("shufflenet_g8_x0_75", {"groups": 8, "width": 0.75}, 1_671_832, 84_130_560),
    ("shufflenet_g8", {"groups": 8}, 2_434_768, 138_365_952),
    ("shufflenet_g8_x1_5", {"groups": 8, "width": 1.5}, 4_269_952, 290_188_800),
    ("shufflenet_g8_x2_0", {"groups": 8, "width": 2.0}, 6_522_232, 521_942_016),
)
MIXNET: Rows = (
    ("mixnet_s", {"variant": "s"}, 4_134_606, 239_173_360),
    ("mixnet_m", {"variant": "m"}, 5_014_382, 339_172_672),
    ("mixnet_l", {"variant": "l"}, 7_329_252, 555_251_792),
    ("mixnet_xl", {"variant": "xl"}, 11_896_768, 904_010_880),
    ("tf_mixnet_s", {"variant": "s", "padding": "same", "bn_eps": 1e-3}, 4_134_606, 239_173_360),
    ("tf_mixnet_m", {"variant": "m", "padding": "same", "bn_eps": 1e-3}, 5_014_382, 339_172_672),
    ("tf_mixnet_l", {"variant": "l", "padding": "same", "bn_eps": 1e-3}, 7_329_252, 555_251_792),
)
SQUEEZENET: Rows = (
    ("squeezenet1_0", {"version": "1.0"}, 1_248_424, 818_924_576),
    ("squeezenet1_0_simple_bypass", {"version": "1.0", "bypass": "simple"}, 1_248_424, 818_924_576),
    ("squeezenet1_0_complex_bypass", {"version": "1.0", "bypass": "complex"}, 1_589_672, 1_165_298_720),
    ("squeezenet1_1", {"version": "1.1"}, 1_235_496, 349_151_936),
    ("squeezenet1_1_simple_bypass", {"version": "1.1", "bypass": "simple"}, 1_235_496, 349_151_936),
    ("squeezenet1_1_complex_bypass", {"version": "1.1", "bypass": "complex"}, 1_572_648, 447_660_736),
)
MOBILENET: Rows = (
    ("mobilenet_v1", {"width": 1.0}, 4_231_976, 568_740_352),
    ("mobilenet_v1_075", {"width": 0.75}, 2_585_560, 325_400_448),
    ("mobilenet_v1_050", {"width": 0.5}, 1_331_592, 149_497_088),
    ("mobilenet_v1_025", {"width": 0.25}, 470_072, 41_030_272),
)
MOBILENET_CIFAR: Rows = (("mobilenet_v1_cifar", {"stem": "cifar", "classes": 10}, 3_217_226, 46_354_432),)

PHOTOGRAPH = Preprocessing()
BICUBIC = Preprocessing(interpolation="bicubic")
CIFAR = Preprocessing(resize=32, crop=32)


def models(factory: str, rows: Rows, preprocessing: Preprocessing, classes: int = 1000) -> tuple[Model, ...]:
    """The rows of one table as models with a common factory and preprocessing."""
    inputs = (Tensor("input", ("batch", 3, *preprocessing.crop_size)),)
    outputs = (Tensor("logits", ("batch", classes)),)
    return tuple(
        Model(name, f"deploytool.models.{factory}", options, inputs, outputs, preprocessing, parameters, macs)
        for name, options, parameters, macs in rows
    )


ZOO: tuple[Model, ...] = (
    *models("shufflenet:shufflenet", SHUFFLENET, PHOTOGRAPH),
    *models("mixnet:mixnet", MIXNET, BICUBIC),
    *models("squeezenet:squeezenet", SQUEEZENET, PHOTOGRAPH),
    *models("mobilenet:mobilenet_v1", MOBILENET, PHOTOGRAPH),
    *models("mobilenet:mobilenet_v1", MOBILENET_CIFAR, CIFAR, classes=10),
)

MAIN: tuple[str, ...] = (
    *("shufflenet_g1", "shufflenet_g2", "shufflenet_g3", "shufflenet_g4", "shufflenet_g8"),
    *("mixnet_s", "mixnet_m", "mixnet_l"),
    *("squeezenet1_0", "squeezenet1_1"),
    *("mobilenet_v1", "mobilenet_v1_cifar"),
)
