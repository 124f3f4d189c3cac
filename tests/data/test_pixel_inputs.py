"""Models that take pixels: their inputs, and how a host would normalise the same images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploytool import serde
from deploytool.data import normalised_inputs, pixel_inputs
from deploytool.data.preprocess import StatedPreprocessing
from deploytool.errors import BadInput
from deploytool.spec import Model, Preprocessing, Range, Tensor
from tests.pixels import by_channel

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
NOTHING = StatedPreprocessing()


def model(*shape: int | str, dtype: str = "float32") -> Model:
    return Model("net", "net.py:make", inputs=(Tensor("image", ("batch", *shape), dtype),), outputs=())


@pytest.mark.parametrize(
    ("own", "layout", "own_layout", "pixels"),
    [
        ((3, 32, 40), None, "NCHW", (3, 32, 40)),
        ((3, 32, 40), "NHWC", "NCHW", (32, 40, 3)),
        ((32, 40, 3), "NHWC", "NHWC", (32, 40, 3)),
        ((32, 40, 3), "NCHW", "NHWC", (3, 32, 40)),
        ((3, "H", 40), "NHWC", "NCHW", ("H", 40, 3)),
    ],
)
def test_the_layout_is_that_of_the_pixels(
    own: tuple[int | str, ...], layout: str | None, own_layout: str, pixels: tuple[int | str, ...]
) -> None:
    stated = StatedPreprocessing(layout=layout, mean=MEAN, std=STD, channels="BGR")
    made = pixel_inputs.resolve(model(*own), stated, {"H": Range(24, 32, 48)})
    assert made.inputs == (Tensor("image", ("batch", *pixels), "uint8", 256),)
    assert made.normalised == (Tensor("image", ("batch", *own)),)
    how, contract = made.preprocessing, made.normalisation
    assert contract is not None
    assert (contract.layout, contract.channels, contract.mean, contract.std) == (own_layout, "BGR", MEAN, STD)
    assert (how.layout, how.channels) == (layout or own_layout, "RGB")
    assert (how.scale, how.mean, how.std, how.crop, how.resize) == (1, (0,), (1,), contract.crop, contract.resize)


def test_a_grey_image_needs_its_range_to_be_stated() -> None:
    stated = StatedPreprocessing(mean=(0.5,), layout="NHWC")
    made = pixel_inputs.resolve(model(1, 32, 40), stated, {})
    assert made.inputs[0].shape == ("batch", 32, 40, 1)
    with pytest.raises(BadInput, match="needs an image input") as refused:
        pixel_inputs.resolve(model(1, 32, 40), NOTHING, {})
    assert "--mean 0" in refused.value.remedy


def test_a_model_without_images_or_with_pixels_is_refused() -> None:
    with pytest.raises(BadInput, match="--io uint8 needs an image input, and net has none"):
        pixel_inputs.resolve(model(10), NOTHING, {})
    with pytest.raises(BadInput, match="image is a uint8 input already") as refused:
        pixel_inputs.resolve(model(3, 32, 40, dtype="uint8"), NOTHING, {})
    assert "as float32" in refused.value.remedy


def test_only_images_become_pixels() -> None:
    others = (Tensor("vector", ("batch", 4)), Tensor("mask", ("batch", 1, 32, 40)))
    made = pixel_inputs.resolve(replace(model(3, 32, 40), inputs=(*others, *model(3, 32, 40).inputs)), NOTHING, {})
    assert made.inputs[:2] == others
    assert [tensor.name for tensor in made.normalised] == ["image"]


def test_the_model_itself_comes_back_with_the_batch_of_the_pixels() -> None:
    before = replace(model(3, 32, 40), preprocessing=Preprocessing(resize=32, crop=32, mean=MEAN))
    made = pixel_inputs.taking_pixels(before, "NHWC")
    assert serde.decode(Model, serde.encode(made)) == made
    assert pixel_inputs.original(made) == before
    assert pixel_inputs.original(before) is before
    fixed = replace(made, inputs=(replace(made.inputs[0], shape=(2, 32, 40, 3)),))
    assert pixel_inputs.original(fixed).inputs[0].shape == (2, 3, 32, 40)
    changed = replace(before, preprocessing=replace(before.preprocessing, mean=STD))
    assert pixel_inputs.as_before(changed, made) == pixel_inputs.taking_pixels(changed, "NHWC")
    assert pixel_inputs.as_before(changed, before) is changed


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("channels", [3, 1])
def test_the_host_normalises_as_written_out(layout: str, order: str, channels: int) -> None:
    mean, std = (MEAN, STD) if channels == 3 else (MEAN[:1], STD[:1])
    how = Preprocessing(mean=mean, std=std, channels=order, stated=("mean",))
    made = pixel_inputs.taking_pixels(replace(model(channels, 6, 5), preprocessing=how), layout)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, channels)).astype(np.uint8)
    given = pixels if layout == "NHWC" else pixels.transpose(0, 3, 1, 2)
    (images,) = normalised_inputs.make(made, {"image": given}).values()
    np.testing.assert_array_equal(images, by_channel(pixels, mean, std, 1 / 255, bgr=order == "BGR"))


def test_a_file_of_normalised_images_is_refused(tmp_path: Path) -> None:
    made, file = pixel_inputs.taking_pixels(model(3, 4, 4), "NHWC"), tmp_path / "inputs.npz"
    np.savez(file, image=np.zeros((2, 3, 4, 4), np.float32))
    with pytest.raises(BadInput, match="image is float32, and with --io uint8 the model takes pixels"):
        pixel_inputs.check_file(made, file)
    np.savez(file, image=np.zeros((2, 4, 4, 3), np.uint8))
    pixel_inputs.check_file(made, file)
