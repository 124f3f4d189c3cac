"""Stated preprocessing options are applied as they are, or refused with a one-line message."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import deploytool
from deploytool.bundle.manifest import read_manifest
from deploytool.cli import params
from deploytool.data import golden, images, preprocess
from deploytool.data.preprocess import StatedPreprocessing
from deploytool.errors import BadInput
from deploytool.loading import catalog
from deploytool.results.report import read as read_report
from deploytool.spec import Model, Preprocessing, Range, Tensor
from tests.conftest import ROOT

TYPED = ROOT / "tests" / "user_models" / "input_dtypes.py"
FREE = {"H": Range(64, 96, 128), "W": Range(32, 64, 96)}
WHITE = np.full((40, 60, 3), 255, np.uint8)


def own(*declared: str) -> Model:
    return catalog.find(f"{TYPED}:Mean", params.tensors(declared))


def resolved(stated: StatedPreprocessing, *declared: str, **sizes: Range) -> Preprocessing:
    return preprocess.resolve(own(*declared), stated, sizes).preprocessing


@pytest.mark.parametrize(
    ("stated", "white", "black"),
    [
        (StatedPreprocessing(mean=(0.0,), std=(1.0,)), 1.0, 0.0),
        (StatedPreprocessing(mean=(0.5,), std=(0.5,)), 1.0, -1.0),
        (StatedPreprocessing(preset="none"), 255.0, 0.0),
        (StatedPreprocessing(scale=1.0), 255.0, 0.0),
        (StatedPreprocessing(std=(0.5,)), 2.0, 0.0),
        (StatedPreprocessing(scale=1.0, mean=(127.5,), std=(127.5,)), 1.0, -1.0),
        (StatedPreprocessing(mean=(0.5, 0.5, 0.5)), 0.5, -0.5),
    ],
)
def test_stated_options_are_applied_and_others_are_neutral(
    stated: StatedPreprocessing, white: float, black: float
) -> None:
    how = resolved(stated, "3x8x8")
    assert not how.assumed
    for pixels, wanted in ((WHITE, white), (WHITE * 0, black)):
        made = images.normalise(images.fit(pixels, how)[None], how)
        np.testing.assert_allclose(made, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("stated", "declared", "line"),
    [
        (StatedPreprocessing(std=(0.0,)), "3x8x8", "--std 0 must be positive"),
        (StatedPreprocessing(std=(0.5, -1.0, 0.5)), "3x8x8", "must be positive"),
        (StatedPreprocessing(mean=(0.5, 0.5)), "3x8x8", "--mean 0.5,0.5 is not one number per channel"),
        (StatedPreprocessing(mean=(float("nan"),)), "3x8x8", "--mean nan is not one number per channel"),
        (StatedPreprocessing(std=(float("inf"),)), "3x8x8", "--std inf is not one number per channel"),
        (StatedPreprocessing(scale=0.0), "3x8x8", "--scale 0 is not a valid factor"),
        (
            StatedPreprocessing(mean=(123.675, 116.28, 103.53)),
            "3x8x8",
            "--mean 123.675,116.28,103.53 is outside the range",
        ),
        (
            StatedPreprocessing(preset="none", mean=(0.0,)),
            "3x8x8",
            "--preprocess none and --mean are mutually exclusive",
        ),
        (StatedPreprocessing(preset="vgg"), "3x8x8", "invalid value vgg for --preprocess"),
        (StatedPreprocessing(channels="GBR"), "3x8x8", "invalid value GBR for --channels"),
        (StatedPreprocessing(layout="CHWN"), "3x8x8", "invalid value CHWN for --layout"),
        (StatedPreprocessing(interpolation="cubical"), "3x8x8", "invalid value cubical for --interpolation"),
        (StatedPreprocessing(resize=6), "3x8x8", "the crop of 8x8 is larger than the image after --resize 6"),
        (StatedPreprocessing(resize=(8, 6)), "3x8x8", "the crop of 8x8 is larger than the image after --resize 8x6"),
        (StatedPreprocessing(resize=9), "3x8x12", "the crop of 8x12 is larger than the image after --resize 9"),
        (StatedPreprocessing(resize=100_000), "3x8x8", "image size out of range: --resize 100000"),
        (StatedPreprocessing(crop=6), "3x8x8", "--crop 6 is outside the input size of input_dtypes_Mean: 8 × 8"),
        (StatedPreprocessing(crop=0), "3x8x8", "--crop none needs a dynamic input size"),
        (StatedPreprocessing(mean=(0.0,)), "16", "--mean needs an image input"),
        (StatedPreprocessing(resize=9), "1x8x8", "--resize needs an image input"),
        (StatedPreprocessing(mean=(0.1, 0.2, 0.3)), "1x8x8", "--mean needs an image input"),
        (StatedPreprocessing(mean=(0.0,)), "8x8x3", "--mean needs an image input"),
        (
            StatedPreprocessing(mean=(0.0,), channels="BGR"),
            "1x8x8",
            "--channels BGR is for three channels, and input has one",
        ),
        (StatedPreprocessing(std=(0.5,)), "3x8x8:uint8", "--std does not apply to input"),
        (
            StatedPreprocessing(preset="imagenet"),
            "3x8x8:uint8",
            "--preprocess does not apply to input",
        ),
    ],
)
def test_invalid_or_contradictory_options_are_refused_in_one_line(
    stated: StatedPreprocessing, declared: str, line: str
) -> None:
    with pytest.raises(BadInput) as refused:
        resolved(stated, declared)
    assert line in str(refused.value)
    assert refused.value.remedy
    assert "\n" not in f"{refused.value}{refused.value.remedy}"


def test_remedies_name_the_layout_or_the_grey_options() -> None:
    for declared, hint in (("8x8x3", "--layout NHWC"), ("1x8x8", "--mean 0 --std 1"), ("16", "--input 3x224x224")):
        with pytest.raises(BadInput) as refused:
            resolved(StatedPreprocessing(resize=9), declared)
        assert hint in refused.value.remedy


@pytest.mark.parametrize(
    ("declared", "stated", "resize", "crop"),
    [
        ("3x64x64", StatedPreprocessing(), 73, 64),
        ("3x64x96", StatedPreprocessing(), (64, 96), (64, 96)),
        ("3x64x96", StatedPreprocessing(resize=96), 96, (64, 96)),
        ("3x64x96", StatedPreprocessing(resize=(80, 120)), (80, 120), (64, 96)),
        ("3x64x64", StatedPreprocessing(resize=0), 0, 64),
        ("3xHxW", StatedPreprocessing(), (96, 64), (96, 64)),
        ("3xHxH", StatedPreprocessing(), 110, 96),
        ("3xHxW", StatedPreprocessing(crop=(128, 96)), (128, 96), (128, 96)),
        ("3xHxW", StatedPreprocessing(crop=0), 0, 0),
        ("3xHxW", StatedPreprocessing(crop=0, resize=80), 80, 0),
    ],
)
def test_the_size_is_that_of_the_input_the_typical_one_or_the_images_own(
    declared: str, stated: StatedPreprocessing, resize: int | tuple[int, int], crop: int | tuple[int, int]
) -> None:
    how = resolved(stated, declared, **{word: limits for word, limits in FREE.items() if word in declared})
    assert (how.resize, how.crop) == (resize, crop)


@pytest.mark.parametrize(
    ("declared", "stated", "resize", "crop"),
    [
        ("3x64x96", StatedPreprocessing(fit="letterbox"), (64, 96), (64, 96)),
        ("3x64x64", StatedPreprocessing(fit="letterbox-corner", resize=64, pad=0), 64, 64),
        ("3xHxW", StatedPreprocessing(fit="letterbox"), (96, 64), (96, 64)),
        ("3xHxW", StatedPreprocessing(fit="letterbox", resize=(128, 32)), (128, 32), (128, 32)),
        ("3xHxW", StatedPreprocessing(fit="within"), (96, 64), 0),
        ("3x64xW", StatedPreprocessing(fit="within", resize=64, crop=0), 64, 0),
    ],
)
def test_a_picture_that_is_kept_whole_has_the_size_of_the_input(
    declared: str, stated: StatedPreprocessing, resize: int | tuple[int, int], crop: int | tuple[int, int]
) -> None:
    how = resolved(stated, declared, **{word: limits for word, limits in FREE.items() if word in declared})
    assert (how.resize, how.crop, how.fit) == (resize, crop, stated.fit)
    assert how.pad == (114 if stated.pad is None else stated.pad)
    assert preprocess.is_valid(how)
    assert "scaled to fit into" in preprocess.describe(how, how.images(own(declared).inputs))


@pytest.mark.parametrize(
    ("stated", "declared", "line"),
    [
        (StatedPreprocessing(fit="stretch"), "3x8x8", "invalid value stretch for --fit"),
        (StatedPreprocessing(pad=0), "3x8x8", "--pad 0 is for a letterbox"),
        (StatedPreprocessing(fit="letterbox", pad=256), "3x8x8", "--pad 256 is not a pixel"),
        (StatedPreprocessing(fit="letterbox", crop=8), "3x8x8", "--crop 8 cuts pixels off"),
        (StatedPreprocessing(fit="letterbox", resize=9), "3x8x8", "--resize 9 is outside the input size"),
        (StatedPreprocessing(fit="letterbox", resize=0), "3x8x8", "--resize none is outside the input size"),
        (StatedPreprocessing(fit="letterbox", resize=(64, 20)), "3xHxW", "--resize 64x20 is outside the input size"),
        (StatedPreprocessing(fit="within"), "3x8x12", "--fit within needs a dynamic input size"),
        (StatedPreprocessing(fit="within", pad=3), "3xHxW", "--pad 3 is for a letterbox"),
        (StatedPreprocessing(fit="letterbox"), "16", "--fit needs an image input"),
    ],
)
def test_a_contradiction_to_the_fit_is_refused_in_one_line(
    stated: StatedPreprocessing, declared: str, line: str
) -> None:
    with pytest.raises(BadInput) as refused:
        resolved(stated, declared, **{word: limits for word, limits in FREE.items() if word in declared})
    assert line in str(refused.value)
    assert refused.value.remedy
    assert "\n" not in f"{refused.value}{refused.value.remedy}"


def test_a_crop_outside_the_range_is_refused() -> None:
    with pytest.raises(
        BadInput, match="--crop 224 is outside the input size of input_dtypes_Mean: 64 to 128 × 32 to 96"
    ):
        resolved(StatedPreprocessing(crop=224), "3xHxW", **FREE)


@pytest.mark.parametrize("declared", ["8x8x3:uint8", "3x8x8:uint8", "8x8x1:uint8", "1x8x8:uint8"])
def test_byte_inputs_get_unscaled_pixels_in_the_only_possible_layout(declared: str) -> None:
    model = own(declared)
    how, (tensor,) = model.preprocessing, model.preprocessing.images(model.inputs)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    made = images.normalise(pixels, how, tensor)
    assert made.dtype == np.uint8
    assert made.shape[1:] == tensor.shape[1:]
    wanted = pixels if 3 in tensor.shape else np.asarray(Image.fromarray(pixels[0]).convert("L"))[None, ..., None]
    last = tensor.shape[3] in (1, 3)
    np.testing.assert_array_equal(made if last else made.transpose(0, 2, 3, 1), wanted)


def test_grey_equals_pillows_and_keeps_grey_pixels() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(images.luma(pixels)[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    np.testing.assert_array_equal(images.luma(grey), grey[..., :1])


def test_every_interpolation_is_implemented() -> None:
    assert set(preprocess.INTERPOLATIONS) == set(images.INTERPOLATIONS)


def test_the_preprocessing_of_a_checkpoint_applies_except_for_stated_options() -> None:
    zoo = catalog.find("mobilenet_v1_025")
    stated = preprocess.resolve(zoo, StatedPreprocessing(channels="BGR", interpolation="bicubic"), {}).preprocessing
    theirs = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="nearest")
    over = preprocess.merged(theirs, stated)
    assert (over.mean, over.channels, over.interpolation) == ((0.5,) * 3, "BGR", "bicubic")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("declared", "words", "white"),
    [
        ("3x16x16", {}, (2.2489, 2.4286, 2.64)),
        ("3x16x16", {"mean": 0, "std": 1}, (1, 1, 1)),
        ("3x16x24", {"preprocess": "none"}, (255, 255, 255)),
        ("1x16x16", {"mean": 0.5, "std": 0.5}, (1,)),
        ("16x16x3:uint8", {}, (255, 255, 255)),
    ],
)
def test_preprocessing_reaches_golden_data_report_manifest_and_device(
    declared: str, words: dict[str, float], white: tuple[float, ...], tmp_path: Path
) -> None:
    last = {"last": True} if declared.endswith("x3:uint8") else {}
    run = deploytool.export(
        f"{TYPED}:Mean",
        inputs=params.tensors([declared]),
        arguments=last,
        quick=True,
        pack=True,
        out=tmp_path / "run",
        **words,  # type: ignore[arg-type]  # words of several types
    ).check()
    assert run.bundle is not None
    manifest, sample = read_manifest(run.bundle), golden.read(tmp_path / "run" / "golden" / "golden.npz")
    assert sample.preprocessing == manifest.preprocessing
    assert manifest.preprocessing.assumed is not (bool(words) or bool(last))
    (line,) = (remark for remark in read_report(run.report_json).remarks if "images: " in remark)
    assert ("assumed" in line) is manifest.preprocessing.assumed
    Image.fromarray(WHITE).save(tmp_path / "white.png")
    with deploytool.device.open(run.bundle) as model:
        np.testing.assert_allclose(model(tmp_path / "white.png")[0], white, rtol=1e-3)


@pytest.mark.integration
def test_an_image_has_the_typical_size_or_its_own_within_the_range_of_the_manifest(tmp_path: Path) -> None:
    Image.fromarray(np.resize(WHITE, (100, 80, 3))).save(tmp_path / "fits.png")
    Image.fromarray(np.resize(WHITE, (60, 80, 3))).save(tmp_path / "small.png")
    shapes = {}
    for name, crop in (("typical", None), ("own", 0)):
        run = deploytool.export(
            f"{TYPED}:Maps", inputs=[(3, "H", "W")], sizes=FREE, crop=crop, quick=True, pack=True, out=tmp_path / name
        ).check()
        assert run.bundle is not None
        assert {word: read_manifest(run.bundle).free[word] for word in FREE} == FREE
        with deploytool.device.open(run.bundle) as model:
            shapes[name] = model(tmp_path / "fits.png").shape[2:]
            if crop == 0:
                with pytest.raises(
                    BadInput, match="60 × 80, has a size that input_dtypes_Maps is not for: 60, and H is from"
                ):
                    model(tmp_path / "small.png")
                with pytest.raises(BadInput, match="160, and W is from 32 to 96"):
                    model.run(**{model.manifest.inputs[0].name: np.zeros((1, 3, 64, 160), np.float32)})
    assert shapes == {"typical": (48, 32), "own": (50, 40)}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("declared", "sizes", "words", "shape"),
    [
        ("3x16x24", {}, {}, (3, 16, 24)),
        ("3xHxW", {"H": (16, 32, 48), "W": (16, 24, 32)}, {}, (3, 32, 24)),
        ("1x16x16", {}, {"preprocess": "none"}, (1, 16, 16)),
    ],
)
def test_photographs_are_fitted_as_declared(
    declared: str, sizes: dict[str, tuple[int, int, int]], words: dict[str, str], shape: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / "photographs").mkdir()
    for number in range(3):
        images.write(tmp_path / "photographs" / f"{number}.png", images.dead_leaves(1, 40 + number, 60, number)[0])
    run = deploytool.export(
        f"{TYPED}:Maps",
        inputs=params.tensors([declared]),
        arguments={"channels": shape[0]},
        sizes=sizes,
        data=tmp_path / "photographs",
        quick=True,
        to="onnx",
        out=tmp_path / "run",
        **words,  # type: ignore[arg-type]
    ).check()
    (array,) = golden.read(run.folder / "golden" / "golden.npz").inputs.values()
    assert array.shape == (3, *shape)


@pytest.mark.integration
def test_photographs_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    for number in range(2):
        images.write(tmp_path / "photographs" / f"{number}.png", images.dead_leaves(1, 70 + number, 64, number)[0])
    with pytest.raises(BadInput, match=r"0\.png and 1\.png are 70 × 64 and 71 × 64: golden images must share one size"):
        deploytool.export(
            f"{TYPED}:Maps",
            inputs=[(3, "H", "W")],
            sizes=FREE,
            crop=0,
            data=tmp_path / "photographs",
            quick=True,
            to="onnx",
            out=tmp_path / "run",
        )


def test_a_definition_without_the_newer_fields_is_readable() -> None:
    from deploytool import serde
    from deploytool.loading.checkpoints import embedded_definition

    zoo = catalog.find("mobilenet_v1_025")
    encoded = serde.encode(zoo)
    assert isinstance(encoded, dict)
    old = {name: value for name, value in encoded.items() if name not in ("classes", "asked")}
    old["preprocessing"] = {
        name: value for name, value in old["preprocessing"].items() if name not in ("layout", "stated", "assumed")
    }
    assert embedded_definition.from_metadata({"model": serde.text(old)}) == dataclasses.replace(zoo)


def test_fractions_and_sizes_on_the_command_line() -> None:
    assert params.scale("1/255") == pytest.approx(1 / 255)
    assert params.numbers("--mean", "0.5, 1/2,0.5") == (0.5, 0.5, 0.5)
    assert [params.side("--crop", text) for text in ("96", "64x96", "none", None)] == [96, (64, 96), 0, None]
    for call in (
        lambda: params.scale("1,2"),
        lambda: params.numbers("--mean", "half"),
        lambda: params.numbers("--std", "1/0"),
        lambda: params.side("--crop", "64x"),
        lambda: params.side("--crop", "-1"),
    ):
        with pytest.raises(BadInput):
            call()
    assert Tensor("x", ("batch",)).image_size("NCHW") is None


@pytest.mark.parametrize("name", ["scale", "mean", "std"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_and_infinity_are_invalid(name: str, number: float) -> None:
    value: Any = number if name == "scale" else (number,)
    assert preprocess.is_valid(Preprocessing())
    assert not preprocess.is_valid(dataclasses.replace(Preprocessing(), **{name: value}))


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((5, 3, 64, 32), None),
        ((5, 3, 128, 32), None),
        ((5, 3, 63, 32), "63, and H is from 64 to 128"),
        ((5, 3, 129, 32), "129, and H is from 64 to 128"),
        ((5, 1, 64, 32), "1, and not 3"),
        ((5, 3, 64, 33), "33, and not 32"),
        ((5, 3, 64), "3 dimensions, and not 4"),
        ((5, 3, 64, 32, 1), "5 dimensions, and not 4"),
    ],
)
def test_a_shape_must_be_within_the_ranges_of_free_sizes(shape: tuple[int, ...], problem: str | None) -> None:
    assert preprocess.size_problem(shape, Tensor("input", ("batch", 3, "H", 32)), FREE) == problem


def test_what_is_assumed_names_the_options_for_the_size_of_images_too() -> None:
    model = catalog.find("mobilenet_v1")
    assert model.preprocessing is not None
    assumed = dataclasses.replace(model.preprocessing, assumed=True)
    line = preprocess.describe(assumed, assumed.images(model.inputs))
    assert line.endswith("to state it, use --resize, --crop, --mean, --std, --scale, or --preprocess none")
    assert "--resize" not in preprocess.describe_normalisation(assumed, assumed.images(model.inputs))
