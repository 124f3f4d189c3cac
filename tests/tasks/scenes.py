"""Draws scenes, digits on photographs, and writes them as sets for detection and for segmentation.

    python -m tests.tasks.scenes --out FOLDER

The digits are those of scikit-learn, the photographs those of scikit-learn and scikit-image. Training and test scenes
share neither digits nor photographs. The same seed draws the same scenes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data
from sklearn.datasets import load_digits, load_sample_image

Array = npt.NDArray[Any]
Generator = np.random.Generator

CATEGORIES = (1, 2, 3, 5, 6, 8, 9, 11, 13, 14)  # the ids of the digits 0 … 9, with gaps as those of COCO
IGNORED = 255  # of a mask: too near to the edge of a digit to say
LETTERBOX_FILL = 114
TEST_SCENES = 300
_SIZES = (96, 161)  # of the sides of a scene
_MOST_DIGITS = 6
_MOST_OVERLAP = 0.15  # of the smaller box
_CUT = 0.2  # of the side of a digit that the edge of the scene may cut off
_OUTLINE, _CORE = 0.3, 0.6  # opacities: a box holds what exceeds the first; a mask is certain outside of the two
_LEAST_CONTRAST = 110.0  # between the luma of a digit and that of its background
_LUMA = np.array([0.299, 0.587, 0.114])


class Split(Enum):
    """Scenes to train on, or to measure on, with their photographs."""

    TRAIN = ("astronaut", "brick", "coffee", "grass", "hubble_deep_field", "retina", "china.jpg")
    TEST = ("chelsea", "gravel", "rocket", "flower.jpg")


@dataclass(frozen=True)
class Content:
    """What is drawn: which digits, and the sides of a digit in pixels (half-open)."""

    digits: tuple[int, ...]
    sides: tuple[int, int]


DETECTED = Content(tuple(range(10)), (26, 57))
SEGMENTED = Content((0, 4, 7), (36, 73))  # a small network tells them apart; class 0 of a mask is the background


@dataclass(frozen=True)
class Scene:
    """A picture (uint8, height × width × 3) and what is in it.

    `boxes` is n × 4, the corners x1, y1, x2, y2 in pixels; `digits` has n numbers from 0 to 9. `mask` (uint8, height ×
    width) has 0 for the background, 1 + the place in the content for a digit, and IGNORED between.
    """

    pixels: Array
    boxes: Array
    digits: Array
    mask: Array


@cache
def _photographs(split: Split) -> list[Image.Image]:
    arrays = [load_sample_image(name) if "." in name else getattr(data, name)() for name in split.value]
    return [Image.fromarray(array).convert("RGB") for array in arrays]


@cache
def _digits(split: Split) -> tuple[Array, Array]:
    """Digits (uint8, n × 8 × 8) and which they are; every fourth is for tests."""
    images, labels = load_digits(return_X_y=True)
    chosen = (np.arange(len(labels)) % 4 == 0) == (split is Split.TEST)
    return (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)[chosen], labels[chosen]


def draw(split: Split, content: Content, seed: int) -> Scene:
    """A scene with one to six digits."""
    rng = np.random.default_rng((seed, len(split.value)))
    width, height = (int(side) for side in rng.integers(*_SIZES, 2))
    pixels = _background(split, width, height, rng)
    mask = np.zeros((height, width), np.uint8)
    boxes: list[Array] = []
    digits: list[int] = []
    for _ in range(int(rng.integers(1, _MOST_DIGITS + 1))):
        opacity, digit = _digit(split, content, rng)
        place = _place(opacity, (height, width), boxes, rng)
        if place is None:
            continue
        box, visible, window = place
        _paint(pixels[window], visible, rng)
        sure, unsure = visible > _CORE, (visible > _OUTLINE) & (visible <= _CORE)
        mask[window] = np.where(sure, 1 + content.digits.index(digit), np.where(unsure, IGNORED, mask[window]))
        boxes.append(box)
        digits.append(digit)
    return Scene(pixels, np.array(boxes, np.float64).reshape(-1, 4), np.array(digits, np.int64), mask)


def _background(split: Split, width: int, height: int, rng: Generator) -> Array:
    """A part of a photograph, at up to a third of its size."""
    photographs = _photographs(split)
    photograph = photographs[int(rng.integers(len(photographs)))]
    zoom = min(float(rng.uniform(1, 3)), photograph.width / width, photograph.height / height)
    size = round(width * zoom), round(height * zoom)
    left, top = (int(rng.integers(whole - part + 1)) for whole, part in zip(photograph.size, size, strict=True))
    crop = photograph.crop((left, top, left + size[0], top + size[1]))
    return np.array(crop.resize((width, height), Image.Resampling.BILINEAR))


def _digit(split: Split, content: Content, rng: Generator) -> tuple[Array, int]:
    """The opacity (0 … 1, height × width) of a digit of random size and shape, and which it is."""
    images, labels = _digits(split)
    digit = int(rng.choice(content.digits))
    image = images[int(rng.choice(np.flatnonzero(labels == digit)))]
    side, aspect = int(rng.integers(*content.sides)), float(rng.uniform(0.8, 1.2))
    enlarged = Image.fromarray(image).resize((round(side * aspect), side), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(enlarged, np.float64) / 255 * 1.6 - 0.2, 0, 1), digit


def _place(
    opacity: Array, size: tuple[int, int], boxes: Sequence[Array], rng: Generator
) -> tuple[Array, Array, tuple[slice, slice]] | None:
    """A free place for a digit: its box, its visible opacity and where that goes; None if none is found."""
    (height, width), (rows, columns) = size, opacity.shape
    for _ in range(10):
        top = int(rng.integers(-int(_CUT * rows), height - int((1 - _CUT) * rows)))
        left = int(rng.integers(-int(_CUT * columns), width - int((1 - _CUT) * columns)))
        visible = opacity[max(0, -top) : height - top, max(0, -left) : width - left]
        inked_rows, inked_columns = (np.flatnonzero((visible > _OUTLINE).any(axis=axis)) for axis in (1, 0))
        if not len(inked_rows):
            continue
        first = np.array([max(0, left), max(0, top)])
        corners = (inked_columns[0], inked_rows[0]), (inked_columns[-1] + 1, inked_rows[-1] + 1)
        box = np.concatenate([first + corner for corner in corners]).astype(np.float64)
        if all(_overlap(box, other) <= _MOST_OVERLAP for other in boxes):
            window = (slice(first[1], first[1] + visible.shape[0]), slice(first[0], first[0] + visible.shape[1]))
            return box, visible, window
    return None


def _overlap(one: Array, other: Array) -> float:
    """The share of the smaller of two boxes that the other covers."""
    common = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None).prod()
    return float(common / min((one[2:] - one[:2]).prod(), (other[2:] - other[:2]).prod()))


def _paint(pixels: Array, opacity: Array, rng: Generator) -> None:
    """Blends a digit of a colour that stands out into `pixels`, in place."""
    behind = float((pixels @ _LUMA).mean())
    colours = rng.uniform(0, 255, (40, 3))
    contrast = np.abs(colours @ _LUMA - behind)
    colour = colours[int(np.argmax(contrast >= min(_LEAST_CONTRAST, contrast.max())))]
    strength = (opacity * rng.uniform(0.85, 1.0))[..., None]
    pixels[:] = np.clip(pixels * (1 - strength) + colour * strength, 0, 255).round()


def letterbox(picture: Array, size: tuple[int, int], fill: int, resample: Image.Resampling) -> tuple[Array, Array]:
    """A picture enlarged or reduced to fit into `size` (height, width), centred on `fill`.

    The second result is (scale x, scale y, left, top): a point p of the picture is at scale × p + (left, top).
    """
    height, width = picture.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    rows, columns = round(height * ratio), round(width * ratio)
    top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
    fitted = np.full((*size, *picture.shape[2:]), fill, np.uint8)
    fitted[top : top + rows, left : left + columns] = Image.fromarray(picture).resize((columns, rows), resample)
    return fitted, np.array([columns / width, rows / height, left, top])


def scenes(split: Split, content: Content, count: int, seed: int = 0) -> Iterator[Scene]:
    """`count` scenes of one split."""
    for number in range(count):
        yield draw(split, content, seed * 1_000_000 + number)


def write_detection(folder: Path, count: int) -> None:
    """Writes `images/*.png` and `annotations.json` in the format of COCO, of test scenes with all digits."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pictures: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes(Split.TEST, DETECTED, count), start=1):
        name = f"{number:06}.png"
        Image.fromarray(scene.pixels).save(folder / "images" / name)
        height, width = scene.pixels.shape[:2]
        pictures.append({"id": number, "file_name": name, "width": width, "height": height})
        for (x1, y1, x2, y2), digit in zip(scene.boxes.tolist(), scene.digits.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORIES[digit],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": category, "name": f"digit {digit}"} for digit, category in enumerate(CATEGORIES)]
    labels = {"images": pictures, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(labels), encoding="utf-8")


def write_segmentation(folder: Path, count: int) -> None:
    """Writes `images/*.png` and `masks/*.png`, the class of every pixel, of test scenes with the SEGMENTED digits."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes(Split.TEST, SEGMENTED, count), start=1):
        Image.fromarray(scene.pixels).save(folder / "images" / f"{number:06}.png")
        Image.fromarray(scene.mask).save(folder / "masks" / f"{number:06}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the sets `detection` and `segmentation`")
    parser.add_argument("--count", type=int, default=TEST_SCENES, help="scenes of each set")
    arguments = parser.parse_args()
    write_detection(arguments.out / "detection", arguments.count)
    write_segmentation(arguments.out / "segmentation", arguments.count)


if __name__ == "__main__":
    main()
