"""Pictures are put into the input by the published rules, and boxes and maps find back to where they came from."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from deploytool.data import images, placement
from deploytool.data.images import Pixels
from deploytool.data.placement import UNSEEN
from deploytool.errors import BadInput
from deploytool.spec import Preprocessing

Size = tuple[int, int]
RNG = np.random.default_rng(7)
SIZES = [tuple(int(side) for side in RNG.integers(3, 260, 4)) for _ in range(150)]
BOX = Preprocessing(resize=(96, 160), crop=(96, 160), fit="letterbox")
WAYS = {
    "letterbox": BOX,
    "letterbox-corner": replace(BOX, fit="letterbox-corner"),
    "within": replace(BOX, fit="within", crop=0),
    "crop": Preprocessing(resize=(120, 170), crop=(96, 160)),
    "shorter side": Preprocessing(resize=100, crop=90),
    "own size": Preprocessing(resize=0, crop=0),
}


def half_up(value: Fraction) -> set[int]:
    """The whole numbers that a value may be rounded to: two for a half."""
    return {math.floor(value + Fraction(1, 2)), math.ceil(value - Fraction(1, 2))}


def reference(pixels: Pixels, height: int, width: int, *, corner: bool) -> Pixels:
    """The letterbox of detectors: one factor, sides rounded, padding split by round(d - 0.1) and round(d + 0.1)."""
    tall, wide = pixels.shape[:2]
    ratio = min(height / tall, width / wide)
    new_tall, new_wide = round(tall * ratio), round(wide * ratio)
    down, across = height - new_tall, width - new_wide
    if not corner:
        down, across = down / 2, across / 2
    top, bottom = (0, down) if corner else (round(down - 0.1), round(down + 0.1))
    left, right = (0, across) if corner else (round(across - 0.1), round(across + 0.1))
    shrunk = np.asarray(Image.fromarray(pixels).resize((new_wide, new_tall), Image.Resampling.BILINEAR))
    return np.pad(shrunk, ((int(top), int(bottom)), (int(left), int(right)), (0, 0)), constant_values=114)


@pytest.mark.parametrize("corner", [False, True])
def test_a_letterbox_equals_that_of_the_published_rule(corner: bool) -> None:
    how = replace(BOX, fit="letterbox-corner" if corner else "letterbox")
    compared = 0
    for tall, wide, height, width in SIZES:
        if min(round(side * min(height / tall, width / wide)) for side in (tall, wide)) < 1:
            continue  # the rule has no picture left
        pixels = RNG.integers(0, 256, (tall, wide, 3), np.uint8)
        got = images.fit(pixels, replace(how, resize=(height, width), crop=(height, width)))
        np.testing.assert_array_equal(got, reference(pixels, height, width, corner=corner))
        compared += 1
    assert compared > 140


@pytest.mark.parametrize(
    ("picture", "box", "resized", "offset"),
    [
        ((720, 1280), (640, 640), (360, 640), (140, 0)),
        ((1280, 720), (640, 640), (640, 360), (0, 140)),
        ((480, 640), (384, 640), (384, 512), (0, 64)),
        ((10, 11), (20, 21), (19, 21), (0, 0)),  # one row of padding, at the bottom
        ((3, 400), (64, 64), (1, 64), (31, 0)),  # the rule rounds the height to 0
    ],
)
def test_sizes_and_offsets_by_hand(picture: Size, box: Size, resized: Size, offset: Size) -> None:
    placed = placement.place(picture, replace(BOX, resize=box, crop=box))
    assert (placed.resized, placed.offset, placed.canvas) == (resized, offset, box)


def test_within_scales_by_one_factor_and_adds_nothing() -> None:
    for tall, wide, height, width in SIZES:
        pixels = RNG.integers(0, 256, (tall, wide, 3), np.uint8)
        got = images.fit(pixels, replace(WAYS["within"], resize=(height, width)))
        factor = min(Fraction(height, tall), Fraction(width, wide))
        for side, limit, made in ((tall, height, got.shape[0]), (wide, width, got.shape[1])):
            assert made in half_up(side * factor) | {max(1, made) if side * factor < 1 else -1}
            assert made <= limit
        exact = Image.fromarray(pixels).resize((got.shape[1], got.shape[0]), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(got, np.asarray(exact))


@pytest.mark.parametrize("pad", [0, 114, 255])
@pytest.mark.parametrize("name", images.INTERPOLATIONS)
def test_padding_has_its_value_in_every_channel_and_surrounds_the_resized_picture(name: str, pad: int) -> None:
    pixels = RNG.integers(0, 256, (30, 100, 3), np.uint8)
    got = images.fit(pixels, replace(BOX, pad=pad, interpolation=name))
    assert got.shape == (96, 160, 3)
    assert (got[:24] == pad).all()
    assert (got[72:] == pad).all()
    whole = Preprocessing(resize=(48, 160), crop=(48, 160), interpolation=name)
    np.testing.assert_array_equal(got[24:72], images.fit(pixels, whole))


@pytest.mark.parametrize("way", WAYS)
def test_boxes_come_back_to_where_they_were(way: str) -> None:
    for number, (tall, wide, *_) in enumerate(SIZES):
        placed = placement.place((tall, wide), replace(WAYS[way]))
        rng = np.random.default_rng(number)
        corners = np.sort(rng.uniform(0, 1, (20, 2, 2)), axis=1) * (wide, tall)
        boxes = corners.reshape(20, 4)
        np.testing.assert_allclose(placed.to_picture(placed.to_input(boxes)), boxes, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_a_bright_rectangle_is_where_its_box_says(way: str) -> None:
    """The rectangle is found in the input by its pixels alone, within a pixel of the resizing."""
    for tall, wide, *_ in (*SIZES[:40], (50, 80), (240, 100)):
        if min(tall, wide) < 24:
            continue
        placed = placement.place((tall, wide), WAYS[way])
        pixels = np.zeros((tall, wide, 3), np.uint8)
        top, bottom, left, right = tall // 3, tall * 2 // 3, wide * 2 // 5, wide * 3 // 5
        pixels[top:bottom, left:right] = 255
        made = images.fit(pixels, replace(WAYS[way], interpolation="nearest", pad=0))
        rows, columns = np.nonzero(made[..., 0])
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        high, across = placed.canvas
        expected = placed.to_input([(left, top, right, bottom)])[0]
        assert np.abs(expected.clip(0, (across, high, across, high)) - found).max() <= 1
        if expected.min() < 0 or (expected > (across, high, across, high)).any():
            continue  # the crop cuts the rectangle itself
        slack = 1 / min(placed.scale)
        assert np.abs(placed.to_picture([found])[0] - (left, top, right, bottom)).max() <= slack + 1e-9


def test_boxes_are_clipped_to_the_picture() -> None:
    placed = placement.place((48, 160), BOX)
    boxes = placed.to_picture([(-5, 0, 500, 96), (3, 30, 9, 40), (0, 0, 160, 10)])
    assert boxes.tolist() == [[0, 0, 160, 48], [3, 6, 9, 16], [0, 0, 160, 0]]
    assert placed.to_picture([]).shape == (0, 4)


def blocks(tall: int, wide: int) -> npt.NDArray[np.int64]:
    """A map of 12 classes in blocks, as a picture of this size sees it."""
    rows, columns = np.arange(tall) * 3 // tall, np.arange(wide) * 4 // wide
    return rows[:, None] * 4 + columns


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stride", [1, 4])
def test_a_map_over_the_input_comes_back_to_the_picture(way: str, stride: int) -> None:
    for tall, wide in ((60, 90), (240, 400), (300, 110)):
        classes = blocks(tall, wide)
        picture = np.repeat(classes[..., None], 3, 2).astype(np.uint8)
        shown = images.fit(picture, replace(WAYS[way], pad=99, interpolation="nearest"))
        high, across = (side // stride * stride for side in shown.shape[:2])
        if (high, across) != shown.shape[:2]:
            continue
        placed = placement.place((tall, wide), WAYS[way])
        mapped = placed.map_to_picture(shown[stride // 2 :: stride, stride // 2 :: stride, 0])
        assert mapped.shape == (tall, wide)
        seen = mapped != UNSEEN
        in_input = placed.canvas[0] * placed.canvas[1] / (placed.resized[0] * placed.resized[1])
        if "crop" in way or "side" in way:
            assert seen.mean() == pytest.approx(in_input, abs=0.02)
        else:
            assert seen.all()
        margin = stride * 2 / min(placed.scale)
        assert (mapped[seen] == classes[seen]).mean() > 1 - margin * (2 / tall + 3 / wide) - 0.02


def test_a_pixel_of_the_picture_has_the_class_at_its_centre() -> None:
    """By hand: the centres of five rows of a picture lie at 0.3, 0.9, 1.5, 2.1 and 2.7 in three rows of the input."""
    placed = placement.place((5, 10), replace(BOX, resize=(3, 6), crop=(3, 6)))
    mapped = placed.map_to_picture(np.arange(3)[:, None] * 10 + np.arange(6))
    assert mapped[:, 0].tolist() == [0, 0, 10, 20, 20]
    assert mapped[0].tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 5, 5]


def test_a_picture_smaller_than_the_crop_has_no_place() -> None:
    with pytest.raises(BadInput, match="a picture of 80 × 200 is smaller than the 90 × 90"):
        placement.place((80, 200), Preprocessing(resize=0, crop=90))
    with pytest.raises(BadInput, match="the picture has no pixels"):
        placement.place((0, 4), BOX)
