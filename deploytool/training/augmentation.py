"""Labelled images in memory: split into sets, drawn in random order and augmented, all determined by the seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from deploytool.data.images import Pixels
from deploytool.training.recipe import Recipe


@dataclass(frozen=True)
class ImageSet:
    """Images of one size (uint8 NHWC, RGB) and the class of each (int64)."""

    pixels: Pixels
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.int64]) -> ImageSet:
        """The images at these indices, in their order."""
        return ImageSet(self.pixels[indices], self.labels[indices])

    def digest(self) -> str:
        """A SHA-256 of every pixel and label."""
        total = hashlib.sha256(str(self.pixels.shape).encode())
        total.update(np.ascontiguousarray(self.pixels).data)
        total.update(np.ascontiguousarray(self.labels).data)
        return total.hexdigest()


def split(dataset: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Splits off a random share of the images (at least one), drawn by the seed; returns the rest and the share."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    count = max(1, round(len(dataset) * share))
    return dataset.take(np.sort(order[count:])), dataset.take(np.sort(order[:count]))


def epoch_batches(dataset: ImageSet, recipe: Recipe, epoch: int) -> Iterator[ImageSet]:
    """The batches of one epoch: every image once, in random order, augmented.

    The batches depend on the seed and the epoch alone, so an interrupted run resumes with the same batches. Their sizes
    differ by one at most: a last batch of a single image would have no variance for a batch norm to divide by.
    """
    rng = np.random.default_rng([recipe.seed, epoch])
    for indices in np.array_split(rng.permutation(len(dataset)), count_batches(dataset, recipe)):
        batch = dataset.take(indices)
        yield ImageSet(shift_and_flip(batch.pixels, recipe.padding, recipe.flip, rng), batch.labels)


def count_batches(dataset: ImageSet, recipe: Recipe) -> int:
    """The number of batches of one epoch."""
    return math.ceil(len(dataset) / recipe.batch)


def shift_and_flip(pixels: Pixels, padding: int, flip: bool, rng: np.random.Generator) -> Pixels:
    """Shifts each image by up to `padding` pixels, filled with black; with `flip`, mirrors half of them at random."""
    count, height, width, _ = pixels.shape
    border = (padding, padding)
    padded = np.pad(pixels, ((0, 0), border, border, (0, 0)))
    windows = sliding_window_view(padded, (height, width), axis=(1, 2))  # count, top, left, 3, height, width
    tops, lefts = rng.integers(0, 2 * padding + 1, (2, count))
    shifted: Pixels = windows[np.arange(count), tops, lefts].transpose(0, 2, 3, 1)
    mirrored = rng.random((count, 1, 1, 1)) < (0.5 if flip else 0.0)
    return np.where(mirrored, shifted[:, :, ::-1], shifted)
