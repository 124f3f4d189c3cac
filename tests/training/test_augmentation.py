"""Tests of splits and augmentation: disjoint sets, every augmentation used, equal results for equal seeds."""

from __future__ import annotations

import numpy as np
import pytest

from deploytool.training.augmentation import ImageSet, count_batches, epoch_batches, shift_and_flip, split
from deploytool.training.recipe import Recipe

NO_AUGMENTATION = Recipe(padding=0, flip=False)


def numbered(count: int, side: int = 4) -> ImageSet:
    """Distinct images: each has its number as label and as pixel value."""
    labels = np.arange(count)
    return ImageSet(np.broadcast_to(labels[:, None, None, None], (count, side, side, 3)).astype(np.uint8), labels)


def test_the_held_out_share_is_disjoint_and_a_tenth() -> None:
    rest, held_out = split(numbered(50_000, side=1), 0.1, seed=42)
    assert (len(rest), len(held_out)) == (45_000, 5_000)
    assert sorted([*rest.labels, *held_out.labels]) == list(range(50_000))
    assert np.corrcoef(np.sort(held_out.labels), np.arange(5_000))[0, 1] > 0.999  # drawn from the whole range


def test_the_held_out_share_depends_on_the_seed_and_is_never_empty() -> None:
    first, repeated, reseeded = (split(numbered(100), 0.1, seed)[1].labels for seed in (1, 1, 2))
    assert first.tolist() == repeated.tolist() != reseeded.tolist()
    assert [len(part) for part in split(numbered(3), 0.1, seed=0)] == [2, 1]


@pytest.mark.parametrize("count", [64, 65, 129, 200])
def test_an_epoch_has_every_image_once_in_even_batches(count: int) -> None:
    batches = list(epoch_batches(numbered(count), NO_AUGMENTATION, epoch=1))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == count_batches(numbered(count), NO_AUGMENTATION) == -(-count // 64)
    assert max(sizes) <= 64
    assert max(sizes) - min(sizes) <= 1
    labels = np.concatenate([batch.labels for batch in batches])
    assert sorted(labels) == list(range(count))
    assert labels.tolist() != sorted(labels)
    assert all((batch.pixels[:, 0, 0, 0] == batch.labels.astype(np.uint8)).all() for batch in batches)


def test_epochs_differ_and_depend_on_the_seed() -> None:
    def pixels(seed: int, epoch: int) -> bytes:
        return b"".join(batch.pixels.tobytes() for batch in epoch_batches(numbered(100), Recipe(seed=seed), epoch))

    assert pixels(1, 1) == pixels(1, 1)
    assert len({pixels(1, 1), pixels(1, 2), pixels(2, 1)}) == 3


def test_every_shift_and_mirroring_occurs_and_nothing_else() -> None:
    image = np.random.default_rng(0).integers(1, 256, (6, 5, 3), dtype=np.uint8)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    possible = {}
    for top in range(5):
        for left in range(5):
            window = padded[top : top + 6, left : left + 5]
            possible[window.tobytes()] = (top, left, False)
            possible[np.ascontiguousarray(window[:, ::-1]).tobytes()] = (top, left, True)
    augmented = shift_and_flip(np.repeat(image[None], 2000, axis=0), 2, flip=True, rng=np.random.default_rng(0))
    drawn = [possible[pixels.tobytes()] for pixels in augmented]
    assert set(drawn) == set(possible.values())
    assert 0.45 < np.mean([mirrored for _, _, mirrored in drawn]) < 0.55


def test_augmentation_can_be_turned_off() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(shift_and_flip(pixels, 0, flip=False, rng=np.random.default_rng(0)), pixels)
