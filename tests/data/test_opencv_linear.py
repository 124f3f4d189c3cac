"""The interpolation `opencv` equals OpenCV's bit by bit, and exact bilinear interpolation within a grey level."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from deploytool.data import images, opencv_linear
from deploytool.spec import Preprocessing

RNG = np.random.default_rng(11)
SIZES = [
    *(tuple(int(side) for side in RNG.integers(1, 300, 4)) for _ in range(400)),
    *((2 * tall, 2 * wide, tall, wide) for tall, wide in ((1, 1), (30, 41), (77, 12))),  # OpenCV takes means here
    *((tall, wide, 2 * tall, 2 * wide) for tall, wide in ((1, 1), (30, 41), (77, 12))),
    *((tall, wide, tall, 33) for tall, wide in ((1, 99), (64, 8), (20, 20))),
    (1080, 1920, 360, 640),
    (479, 640, 640, 855),
]


@pytest.fixture(scope="module")
def cv2() -> Any:
    return pytest.importorskip("cv2", reason="opencv-python-headless is needed, which is the reference")


def exact(size: int, resized: int) -> npt.NDArray[np.float64]:
    """Bilinear interpolation along one side in real numbers, as a matrix, without averaging."""
    places = ((np.arange(resized) + 0.5) * size / resized - 0.5).clip(0, size - 1)
    matrix: npt.NDArray[np.float64] = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)))
    return matrix


def test_every_pixel_equals_opencvs(cv2: Any) -> None:
    for tall, wide, height, width in SIZES:
        pixels = RNG.integers(0, 256, (tall, wide, 3), np.uint8)
        expected = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(opencv_linear.resize(pixels, height, width), expected)


@pytest.mark.parametrize("fit", ["letterbox", "letterbox-corner"])
def test_a_letterbox_equals_one_made_with_opencv(cv2: Any, fit: str) -> None:
    for tall, wide, height, width in SIZES[:150]:
        ratio = min(height / tall, width / wide)
        size = (round(wide * ratio), round(tall * ratio))
        if min(size) < 1:
            continue
        pixels = RNG.integers(0, 256, (tall, wide, 3), np.uint8)
        across, down = (width - size[0]) / 2, (height - size[1]) / 2
        sides = [round(down - 0.1), round(down + 0.1), round(across - 0.1), round(across + 0.1)]
        if fit == "letterbox-corner":
            sides = [0, height - size[1], 0, width - size[0]]
        shrunk = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        expected = cv2.copyMakeBorder(shrunk, *sides, cv2.BORDER_CONSTANT, value=(114, 114, 114))
        box = (height, width)
        got = images.fit(pixels, Preprocessing(resize=box, crop=box, fit=fit, interpolation="opencv"))
        np.testing.assert_array_equal(got, expected)


def test_bilinear_interpolation_is_exact_within_a_grey_level() -> None:
    for tall, wide, height, width in SIZES[:100]:
        pixels = RNG.integers(0, 256, (tall, wide, 3), np.uint8)
        planes = exact(tall, height) @ pixels.astype(float).transpose(2, 0, 1) @ exact(wide, width).T
        expected = planes.transpose(1, 2, 0)
        assert np.abs(opencv_linear.resize(pixels, height, width) - expected).max() < 1.1


def test_shrinking_differs_from_pillows_which_averages() -> None:
    pixels = RNG.integers(0, 256, (96, 128, 3), np.uint8)
    pillow = np.asarray(Image.fromarray(pixels).resize((32, 24), Image.Resampling.BILINEAR))
    assert np.abs(opencv_linear.resize(pixels, 24, 32).astype(int) - pillow).mean() > 20


def test_strips_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = RNG.integers(0, 256, (50, 70, 3), np.uint8)
    whole = opencv_linear.resize(pixels, 61, 33)
    monkeypatch.setattr(opencv_linear, "_STRIP", 100)
    np.testing.assert_array_equal(opencv_linear.resize(pixels, 61, 33), whole)
