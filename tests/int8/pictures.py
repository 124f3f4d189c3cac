"""Writes the pictures of `make int8`: sets for training, calibration and tests, which share no picture.

Digits are those of scikit-learn. Crops are parts of photographs from scikit-image and scikit-learn, and their class is
the photograph; those for tests come from other squares of it than the others. Scenes are those of `tests.tasks.scenes`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data
from sklearn.datasets import load_digits, load_sample_image

from tests.tasks import scenes
from tests.tasks.scenes import Content, Split

Array = npt.NDArray[Any]

CALIBRATION = 128  # pictures of every set
DIGITS_FOR_TRAINING, CROPS_FOR_TRAINING, TEST_CROPS, TEST_SCENES = 900, 1200, 1000, 600
SIDE = 32
PHOTOGRAPHS = (
    *("astronaut", "brick", "chelsea", "coffee", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "retina", "rocket", "china.jpg", "flower.jpg"),
)
_SQUARE, _LEAST = 64, 20  # sides of squares and of crops, in pixels
_FLAT = 4.0  # deviation of pixels: crops of a black sky are all alike
_SEED = 7  # of the scenes for calibration; the networks were trained on those of another


def write_digits(folder: Path) -> None:
    """Digits enlarged from 8 × 8 grey to 32 × 32 RGB, by class."""
    digits, labels = load_digits(return_X_y=True)
    grey = np.kron((digits.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8), np.ones((1, 4, 4), np.uint8))
    for index, number in enumerate(np.random.default_rng(0).permutation(len(labels))):
        sets = ["train" if index < DIGITS_FOR_TRAINING else "test"] + ["calibration"] * (index < CALIBRATION)
        for name in sets:
            _save(np.repeat(grey[number][..., None], 3, 2), folder / name / str(labels[number]) / f"{number:04}.png")


def write_crops(folder: Path) -> None:
    """Square crops of random size at 32 × 32, by class."""
    rng = np.random.default_rng(0)
    photographs = [_photograph(name) for name in PHOTOGRAPHS]
    counts = {"train": CROPS_FOR_TRAINING, "calibration": CALIBRATION, "test": TEST_CROPS}
    for name, count in counts.items():
        for number in range(count):
            kind = number % len(photographs)
            crop = _crop(photographs[kind], name == "test", rng)
            _save(crop, folder / name / f"{kind:02}" / f"{number:04}.png")


def write_scenes(folder: Path, content: Content) -> None:
    """Scenes for detection or segmentation: `test` with labels, and `calibration`, drawn as those for training are."""
    write = scenes.write_detection if content is scenes.DETECTED else scenes.write_segmentation
    write(folder / "test", TEST_SCENES)
    for number, scene in enumerate(scenes.scenes(Split.TRAIN, content, CALIBRATION, _SEED)):
        _save(scene.pixels, folder / "calibration" / f"{number:04}.png")


def _photograph(name: str) -> Array:
    array = load_sample_image(name) if "." in name else getattr(data, name)()
    return np.asarray(Image.fromarray(array).convert("RGB"))


def _crop(photograph: Array, tests: bool, rng: np.random.Generator) -> Array:
    """A crop within a square of the photograph, as on a chessboard: those for tests have another colour."""
    rows, columns = (size // _SQUARE for size in photograph.shape[:2])
    while True:
        row, column, side = int(rng.integers(rows)), int(rng.integers(columns)), int(rng.integers(_LEAST, _SQUARE + 1))
        top, left = (int(rng.integers(_SQUARE - side + 1)) + _SQUARE * place for place in (row, column))
        part = photograph[top : top + side, left : left + side]
        if (row + column) % 2 == tests and part.std() > _FLAT:
            return np.asarray(Image.fromarray(part).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _save(pixels: Array, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
