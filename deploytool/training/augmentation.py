"""Labelled pictures in memory: held out, drawn in random order, shifted and mirrored, all by the seed."""

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
    """Pictures of one size (uint8 NHWC, RGB) and the class of each (int64)."""

    pixels: Pixels
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: npt.NDArray[np.int64]) -> ImageSet:
        """The pictures at these places, in their order."""
        return ImageSet(self.pixels[places], self.labels[places])

    def digest(self) -> str:
        """A SHA-256 of every pixel and label."""
        total = hashlib.sha256(str(self.pixels.shape).encode())
        total.update(np.ascontiguousarray(self.pixels).data)
        total.update(np.ascontiguousarray(self.labels).data)
        return total.hexdigest()


def split(pictures: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """The pictures without a share of them, and that share, at least one picture, drawn by the seed."""
    order = np.random.default_rng(seed).permutation(len(pictures))
    count = max(1, round(len(pictures) * share))
    return pictures.take(np.sort(order[count:])), pictures.take(np.sort(order[:count]))


def epoch_batches(pictures: ImageSet, recipe: Recipe, epoch: int) -> Iterator[ImageSet]:
    """The batches of one epoch: every picture once, in random order, augmented.

    Seed and epoch decide everything, so an epoch is the same whether or not the run was interrupted before it. Batches
    are as even as can be: a leftover of one picture would have no variance for a batch norm to divide by.
    """
    rng = np.random.default_rng([recipe.seed, epoch])
    for places in np.array_split(rng.permutation(len(pictures)), count_batches(pictures, recipe)):
        batch = pictures.take(places)
        yield ImageSet(shift_and_flip(batch.pixels, recipe.padding, recipe.flip, rng), batch.labels)


def count_batches(pictures: ImageSet, recipe: Recipe) -> int:
    """How many batches one epoch has."""
    return math.ceil(len(pictures) / recipe.batch)


def shift_and_flip(pixels: Pixels, padding: int, flip: bool, rng: np.random.Generator) -> Pixels:
    """Each picture shifted by up to `padding` pixels, black where nothing was; a coin decides which are mirrored."""
    count, height, width, _ = pixels.shape
    border = (padding, padding)
    padded = np.pad(pixels, ((0, 0), border, border, (0, 0)))
    windows = sliding_window_view(padded, (height, width), axis=(1, 2))  # count, top, left, 3, height, width
    tops, lefts = rng.integers(0, 2 * padding + 1, (2, count))
    shifted: Pixels = windows[np.arange(count), tops, lefts].transpose(0, 2, 3, 1)
    mirrored = rng.random((count, 1, 1, 1)) < (0.5 if flip else 0.0)
    return np.where(mirrored, shifted[:, :, ::-1], shifted)
