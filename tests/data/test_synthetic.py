from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deploytool.data import images, synthetic
from deploytool.errors import StageFailed
from deploytool.parity.shape_corners import draw
from deploytool.spec import Fill, Model, Range, Tensor
from tests.conftest import TINY

MIXED = Model(
    "mixed",
    "nowhere:made",
    inputs=(
        Tensor("tokens", ("batch", "length"), "int64", 50),
        Tensor("image", ("batch", 3, "height", 16)),
        Tensor("mask", ("batch", "length"), "bool"),
        Tensor("vector", ("batch", 7), "float64"),
    ),
)
SIZES = {"length": 5, "height": 24}


def test_image_inputs_are_preprocessed_synthetic_images() -> None:
    pixels, inputs = synthetic.draw(TINY, 3, 0, {})
    assert pixels["input"].shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(inputs["input"], images.normalise(pixels["input"], TINY.preprocessing))


def test_every_input_has_its_type_size_and_bounds() -> None:
    pixels, inputs = synthetic.draw(MIXED, 40, 0, SIZES)
    assert {name: (array.dtype.name, array.shape) for name, array in inputs.items()} == {
        "tokens": ("int64", (40, 5)),
        "image": ("float32", (40, 3, 24, 16)),
        "mask": ("bool", (40, 5)),
        "vector": ("float64", (40, 7)),
    }
    assert {name: array.shape for name, array in pixels.items()} == {"image": (40, 24, 16, 3)}
    assert inputs["tokens"].min() >= 0
    assert 40 < inputs["tokens"].max() < 50
    assert set(np.unique(inputs["mask"])) == {False, True}


def test_the_seed_determines_the_inputs() -> None:
    one, same, other = (synthetic.draw(MIXED, 2, seed, SIZES)[1] for seed in (1, 1, 2))
    assert all((one[name] == same[name]).all() for name in one)
    assert not any((one[name] == other[name]).all() for name in ("tokens", "image", "vector"))


def test_every_corner_is_drawn_and_answered() -> None:
    sizes = {"length": Range(2, 4, 9), "height": Range(8, 8, 8)}
    found = draw(MIXED, sizes, lambda **inputs: {"sum": inputs["tokens"].sum(axis=1)})
    assert [corner.name.removeprefix("eager at height 8, length ") for corner in found] == ["2", "9", "5"]
    assert [corner.inputs["tokens"].shape[1] for corner in found] == [2, 9, 5]
    for corner in found:
        np.testing.assert_array_equal(corner.answers["sum"], corner.inputs["tokens"].sum(axis=1))
    assert draw(TINY, {}, lambda **inputs: {}) == []


@pytest.mark.parametrize(
    ("limits", "step", "inside"),
    [
        (Range(32, 48, 64), 1, 61),
        (Range(32, 48, 64), 16, None),  # 48 alone lies between, and is the typical size
        (Range(64, 96, 224), 32, 160),
        (Range(64, 96, 224), 4, 220),
        (Range(8, 8, 8), 1, None),
        (Range(8, 8, 9), 1, None),
    ],
)
def test_a_size_inside_a_range_is_the_least_divisible_that_the_source_accepts(
    limits: Range, step: int, inside: int | None
) -> None:
    def source(tokens: npt.NDArray[Any], **others: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        if tokens.shape[1] % step:
            raise StageFailed("not a multiple", "give one")
        return {"sum": tokens.sum(axis=1)}

    found = draw(MIXED, {"length": limits, "height": Range(8, 8, 8)}, source)
    sizes = [corner.inputs["tokens"].shape[1] for corner in found]
    assert sizes == [*dict.fromkeys((limits.smallest, limits.largest)), *([inside] if inside else [])]


def test_with_several_profiles_the_corners_are_those_of_each() -> None:
    def source(tokens: npt.NDArray[Any], **others: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        return {"sum": tokens.sum(axis=1)}

    height = Range(8, 8, 8)
    profiles = tuple({"length": length, "height": height} for length in (Range(8, 12, 16), Range(64, 64, 64)))
    found = draw(MIXED, {"length": Range(8, 12, 64), "height": height}, source, profiles)
    assert [corner.inputs["tokens"].shape[1] for corner in found] == [8, 16, 13, 64]


def test_masks_are_ones_and_a_padded_tail_of_random_length() -> None:
    model = Model("masked", "nowhere:made", inputs=(Tensor("mask", ("batch", 12), "int64", fill=Fill.MASK),))
    mask = synthetic.draw(model, 30, 0, {}, hard=True)[1]["mask"]
    lengths = mask.sum(axis=1)
    np.testing.assert_array_equal(mask, np.arange(12) < lengths[:, None])
    assert (lengths[::3] == 12).all()
    assert lengths.min() >= 1
    assert len(set(lengths)) > 5
    assert mask.dtype == np.int64


def test_the_mask_of_an_image_is_padded_at_the_bottom_and_on_the_right() -> None:
    inputs = (Tensor("image", ("batch", 3, 8, 6)), Tensor("mask", ("batch", 8, 6), "bool", fill=Fill.MASK))
    mask = synthetic.draw(Model("detector", "nowhere:made", inputs=inputs), 20, 0, {})[1]["mask"]
    for one in mask:
        height, width = one.any(axis=1).sum(), one.any(axis=0).sum()
        assert one[:height, :width].all()
        assert one.sum() == height * width
    assert len({one.any(axis=1).sum() for one in mask}) > 2


def test_positions_are_a_range() -> None:
    inputs = (Tensor("positions", ("batch", 5), "int32", fill=Fill.RANGE),)
    drawn = synthetic.draw(Model("placed", "nowhere:made", inputs=inputs), 2, 0, {}, hard=True)[1]["positions"]
    np.testing.assert_array_equal(drawn, [[0, 1, 2, 3, 4]] * 2)
    assert drawn.dtype == np.int32
