"""Each source's weights answer in our definition as they do in the source's own network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own short name
from torch import Tensor

from deploytool import checkpoints, factory
from deploytool.catalog import find
from deploytool.checkpoints import Loaded
from deploytool.spec import Option, Preprocessing
from tests.checkpoints import published, theirs
from tests.checkpoints.published import Shapes

HALF = (0.5, 0.5, 0.5)
BICUBIC = Preprocessing(interpolation="bicubic")
PIXELS = Preprocessing(channels="BGR", scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
MEGVII: Mapping[str, Option] = {
    "shuffle_order": "megvii",
    "shuffle_place": "after",
    "concat_order": "shortcut_first",
    "classifier_bias": False,
}


class Source(NamedTuple):
    layout: str
    shapes: Shapes
    model: str
    run: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    options: Mapping[str, Option]
    preprocessing: Preprocessing


def listed(name: str) -> Shapes:
    return published.shapes(name)


SOURCES = {
    "megvii g3": Source(
        "megvii",
        listed("megvii_shufflenet_g3_x1_0"),
        "shufflenet_g3",
        partial(theirs.megvii_shufflenet, groups=3),
        MEGVII,
        PIXELS,
    ),
    "megvii g8": Source(
        "megvii",
        listed("megvii_shufflenet_g8_x1_0"),
        "shufflenet_g8",
        partial(theirs.megvii_shufflenet, groups=8),
        MEGVII,
        PIXELS,
    ),
    "pytorchcv shufflenet": Source(
        "pytorchcv",
        listed("pytorchcv_shufflenet_g3_w1"),
        "shufflenet_g3",
        theirs.pytorchcv_shufflenet,
        {"shuffle_order": "paper", "shuffle_place": "before", "concat_order": "main_first", "classifier_bias": True},
        Preprocessing(),
    ),
    "mmpretrain": Source(
        "mmpretrain",
        published.mmpretrain_shufflenet_g3(),
        "shufflenet_g3",
        theirs.mmpretrain_shufflenet,
        {"shuffle_order": "paper", "shuffle_place": "after", "concat_order": "shortcut_first"},
        Preprocessing(),
    ),
    "timm mixnet": Source("timm", listed("timm_mixnet_s"), "mixnet_s", theirs.timm_mixnet_s, {}, BICUBIC),
    "timm tf_mixnet": Source(
        "timm",
        listed("timm_mixnet_s"),
        "tf_mixnet_s",
        partial(theirs.timm_mixnet_s, same=True),
        {"padding": "same", "bn_eps": 1e-3},
        BICUBIC,
    ),
    "pytorchcv mixnet": Source(
        "pytorchcv",
        listed("pytorchcv_mixnet_s"),
        "mixnet_s",
        theirs.pytorchcv_mixnet_s,
        {"padding": "symmetric", "bn_eps": 1e-5},
        Preprocessing(),
    ),
    "timm mobilenet": Source(
        "timm",
        listed("timm_mobilenetv1_100"),
        "mobilenet_v1",
        theirs.timm_mobilenet,
        {"activation": "relu6"},
        Preprocessing(interpolation="bicubic", mean=HALF, std=HALF),
    ),
    "pytorchcv mobilenet": Source(
        "pytorchcv",
        listed("pytorchcv_mobilenet_w1"),
        "mobilenet_v1",
        theirs.pytorchcv_mobilenet,
        {"activation": "relu"},
        Preprocessing(),
    ),
    "huggingface": Source(
        "huggingface",
        published.huggingface_mobilenet(),
        "mobilenet_v1",
        theirs.huggingface_mobilenet,
        {"activation": "relu6", "padding": "same", "bn_eps": 1e-3, "classes": 1001},
        Preprocessing(mean=HALF, std=HALF),
    ),
    "huggingface 0.75": Source(
        "huggingface",
        published.huggingface_mobilenet(0.75),
        "mobilenet_v1_075",
        theirs.huggingface_mobilenet,
        {"width": 0.75, "classes": 1001},
        Preprocessing(mean=HALF, std=HALF),
    ),
    "torchvision": Source(
        "torchvision",
        listed("torchvision_squeezenet1_1"),
        "squeezenet1_1",
        partial(theirs.squeezenet, pool_before=(0, 2, 4)),
        {"bypass": "none"},
        Preprocessing(),
    ),
    "pytorchcv squeezeresnet": Source(
        "pytorchcv",
        listed("pytorchcv_squeezeresnet_v1_0"),
        "squeezenet1_0_simple_bypass",
        partial(theirs.squeezenet, pool_before=(0, 3, 7), bypass=True),
        {"bypass": "simple"},
        Preprocessing(),
    ),
    "pytorchcv squeezenet": Source(
        "pytorchcv",
        listed("pytorchcv_squeezeresnet_v1_0"),
        "squeezenet1_0",
        partial(theirs.squeezenet, pool_before=(0, 3, 7)),
        {},
        Preprocessing(),
    ),
}
each = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


def load(weights: Mapping[str, Tensor], model: str, folder: Path) -> Loaded:
    torch.save(dict(weights), folder / "weights.pth")
    return checkpoints.load(folder / "weights.pth", find(model))


def answer(loaded: Loaded, x: Tensor, **options: Option) -> Tensor:
    module = factory.resolve(loaded.model.factory)(**{**loaded.model.options, **options}).eval()
    module.load_state_dict(dict(loaded.state), strict=True)
    with torch.no_grad():
        logits: Tensor = module(x)
    return logits


def pictures(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7))


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@each
def test_their_weights_answer_here_as_they_do_there(source: Source, tmp_path: Path) -> None:
    weights = published.tensors(source.shapes)
    loaded = load(weights, source.model, tmp_path)
    assert loaded.layout == source.layout
    assert loaded.model.options.items() >= source.options.items()
    assert loaded.model.preprocessing == source.preprocessing
    assert loaded.model.name == source.model
    expected = source.run(weights, pictures())
    assert expected.std() > 1e-3
    assert difference(answer(loaded, pictures()), expected) <= 1e-5


@each
def test_every_key_is_mapped_to_the_key_at_its_place_in_the_order(source: Source, tmp_path: Path) -> None:
    weights = published.tensors(source.shapes)
    state = load(weights, source.model, tmp_path).state
    assert len(state) == len(weights)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state.values(), weights.values(), strict=True))


@each
def test_the_classes_are_those_of_the_checkpoint(source: Source, tmp_path: Path) -> None:
    weights = published.tensors(source.shapes, classes=10)
    loaded = load(weights, source.model, tmp_path)
    assert loaded.model.outputs[0].shape == ("batch", 10)
    assert loaded.model.options["classes"] == 10
    assert loaded.model.parameters is None  # the published figure is for a thousand
    assert answer(loaded, pictures(32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *[(name, {"shuffle_order": "paper"}) for name in ("megvii g3", "megvii g8")],
        *[(name, {"concat_order": "main_first"}) for name in ("megvii g3", "mmpretrain")],
        *[(name, {"shuffle_place": "before"}) for name in ("megvii g8", "mmpretrain")],
        ("pytorchcv shufflenet", {"concat_order": "shortcut_first"}),
        *[(name, {"activation": "relu"}) for name in ("timm mobilenet", "huggingface")],
        *[(name, {"padding": "symmetric"}) for name in ("huggingface", "timm tf_mixnet")],
        *[(name, {"bn_eps": 1e-5}) for name in ("huggingface", "timm tf_mixnet")],
        ("pytorchcv mobilenet", {"activation": "relu6"}),
        ("pytorchcv squeezeresnet", {"bypass": "none"}),
    ],
)
def test_an_option_that_is_not_the_sources_gives_another_answer(
    name: str, other: dict[str, Option], tmp_path: Path
) -> None:
    weights = published.tensors(SOURCES[name].shapes)
    for key in [key for key in weights if key.endswith("running_var")][:1]:
        weights[key] *= 0.01  # so that an epsilon of 1e-3 can be seen, and activations reach 6
    loaded = load(weights, SOURCES[name].model, tmp_path)
    expected = SOURCES[name].run(weights, pictures())
    assert difference(answer(loaded, pictures()), expected) <= 1e-5
    assert difference(answer(loaded, pictures(), **other), expected) > 1e-3


def test_megviis_weights_through_the_papers_shuffle_are_told_apart_by_their_own_network_too() -> None:
    weights = published.tensors(SOURCES["megvii g8"].shapes)
    right = theirs.megvii_shufflenet(weights, pictures(), 8)
    wrong = theirs.megvii_shufflenet(weights, pictures(), 8, shuffle=partial(theirs.shuffle_paper, groups=8))
    assert difference(wrong, right) > 0.1


def test_timms_mobilenet_saturates() -> None:
    weights = published.tensors(SOURCES["timm mobilenet"].shapes)
    weights["conv_stem.weight"] *= 20
    assert (
        difference(theirs.timm_mobilenet(weights, pictures(), F.relu), theirs.timm_mobilenet(weights, pictures())) > 0.1
    )


def our_shapes(model: str, **options: Option) -> Shapes:
    found = find(model)
    with torch.device("meta"):
        state = factory.resolve(found.factory)(**{**found.options, **options}).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("groups", [3, 8])
@pytest.mark.parametrize("width", ["x0_5", "x1_5", "x2_0"])
def test_megviis_other_widths(groups: int, width: str, tmp_path: Path) -> None:
    model = f"shufflenet_g{groups}_{width}"
    given = published.scaled(listed("megvii_shufflenet_g3_x1_0"), our_shapes(model, classifier_bias=False))
    weights = published.tensors(given)
    expected = theirs.megvii_shufflenet(weights, pictures(32), groups)
    assert difference(answer(load(weights, model, tmp_path), pictures(32)), expected) <= 1e-5


@pytest.mark.parametrize("model", ["shufflenet_g1_x0_25", "shufflenet_g1_x0_75", "shufflenet_g2", "shufflenet_g3_x0_5"])
def test_pytorchcvs_other_shufflenets(model: str, tmp_path: Path) -> None:
    given = published.scaled(listed("pytorchcv_shufflenet_g3_w1"), our_shapes(model))
    weights = published.tensors(given)
    expected = theirs.pytorchcv_shufflenet(weights, pictures(32), int(str(find(model).options["groups"])))
    assert difference(answer(load(weights, model, tmp_path), pictures(32)), expected) <= 1e-5


def test_pytorchcvs_other_mobilenet(tmp_path: Path) -> None:
    given = published.scaled(listed("pytorchcv_mobilenet_w1"), our_shapes("mobilenet_v1_050"))
    weights = published.tensors(given)
    loaded = load(weights, "mobilenet_v1_050", tmp_path)
    assert difference(answer(loaded, pictures(32)), theirs.pytorchcv_mobilenet(weights, pictures(32))) <= 1e-5


@pytest.mark.parametrize("model", ["mixnet_m", "mixnet_l"])
def test_pytorchcvs_larger_mixnets_count_eight_units_in_the_last_stage(model: str, tmp_path: Path) -> None:
    ours = our_shapes(model)
    names = checkpoints.layouts.pytorchcv.mixnet(find(model).options)
    given = {checkpoints.naming.their_key(key, names): shape for key, shape in ours.items()}
    units = theirs.unit_places({key: torch.empty(0) for key in given}, ".exp_conv.")
    lengths = [sum(unit.startswith(f"features.stage{stage}.") for unit in units) for stage in (1, 2, 3, 4)]
    assert lengths == [2, 4, 4, 8]
    loaded = load(published.tensors(given), model, tmp_path)
    assert {key: tuple(value.shape) for key, value in loaded.state.items()} == ours


def test_pytorchcvs_squeezenet_1_1(tmp_path: Path) -> None:
    lengths = {"stage1": 2, "stage2": 2, "stage3": 4}
    units = [f"features.{stage}.unit{unit + 1}" for stage, length in lengths.items() for unit in range(length)]
    parts = [f"{unit}.{part}.conv" for unit in units for part in ("squeeze", "expand1x1", "expand3x3")]
    places = ["features.init_block.conv", *parts, "output.final_conv"]
    keys: Shapes = {f"{place}.{leaf}": () for place in places for leaf in ("weight", "bias")}
    weights = published.tensors(published.scaled(keys, listed("torchvision_squeezenet1_1")))
    expected = theirs.squeezenet(weights, pictures(), (0, 2, 4))
    assert difference(answer(load(weights, "squeezenet1_1", tmp_path), pictures()), expected) <= 1e-5
