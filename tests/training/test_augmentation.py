"""What is held out stays out, augmentation really happens, and both are the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from deploytool.training.augmentation import ImageSet, count_batches, epoch_batches, shift_and_flip, split
from deploytool.training.recipe import Recipe

PLAIN = Recipe(padding=0, flip=False)


def numbered(count: int, side: int = 4) -> ImageSet:
    """Pictures that one can tell apart: each is labelled, and filled, with its number."""
    labels = np.arange(count)
    return ImageSet(np.broadcast_to(labels[:, None, None, None], (count, side, side, 3)).astype(np.uint8), labels)


def test_the_held_out_share_is_disjoint_and_a_tenth() -> None:
    kept, held_out = split(numbered(50_000, side=1), 0.1, seed=42)
    assert (len(kept), len(held_out)) == (45_000, 5_000)
    assert sorted([*kept.labels, *held_out.labels]) == list(range(50_000))
    assert np.corrcoef(np.sort(held_out.labels), np.arange(5_000))[0, 1] > 0.999  # from everywhere, not one end


def test_the_held_out_share_follows_the_seed_and_is_never_empty() -> None:
    first, again, other = (split(numbered(100), 0.1, seed)[1].labels for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    assert [len(part) for part in split(numbered(3), 0.1, seed=0)] == [2, 1]


@pytest.mark.parametrize("count", [64, 65, 129, 200])
def test_an_epoch_shows_every_picture_once_in_even_batches(count: int) -> None:
    batches = list(epoch_batches(numbered(count), PLAIN, epoch=1))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == count_batches(numbered(count), PLAIN) == -(-count // 64)
    assert max(sizes) <= 64
    assert max(sizes) - min(sizes) <= 1
    seen = np.concatenate([batch.labels for batch in batches])
    assert sorted(seen) == list(range(count))
    assert seen.tolist() != sorted(seen)
    assert all((batch.pixels[:, 0, 0, 0] == batch.labels.astype(np.uint8)).all() for batch in batches)


def test_epochs_differ_and_follow_the_seed() -> None:
    def pixels(seed: int, epoch: int) -> bytes:
        return b"".join(batch.pixels.tobytes() for batch in epoch_batches(numbered(100), Recipe(seed=seed), epoch))

    assert pixels(1, 1) == pixels(1, 1)
    assert len({pixels(1, 1), pixels(1, 2), pixels(2, 1)}) == 3


def test_every_shift_and_both_sides_happen_and_nothing_else() -> None:
    picture = np.random.default_rng(0).integers(1, 256, (6, 5, 3), dtype=np.uint8)
    padded = np.pad(picture, ((2, 2), (2, 2), (0, 0)))
    possible = {}
    for top in range(5):
        for left in range(5):
            window = padded[top : top + 6, left : left + 5]
            possible[window.tobytes()] = (top, left, False)
            possible[np.ascontiguousarray(window[:, ::-1]).tobytes()] = (top, left, True)
    many = shift_and_flip(np.repeat(picture[None], 2000, axis=0), 2, flip=True, rng=np.random.default_rng(0))
    seen = [possible[one.tobytes()] for one in many]
    assert set(seen) == set(possible.values())
    assert 0.45 < np.mean([mirrored for _, _, mirrored in seen]) < 0.55


def test_augmentation_can_be_turned_off() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(shift_and_flip(pixels, 0, flip=False, rng=np.random.default_rng(0)), pixels)
