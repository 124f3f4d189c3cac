"""Cosine similarity of embeddings to those of the source."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def scores(answers: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Floats:
    """The cosine of the angle between each answer and its target, both images × features.

    Two zero vectors are equal (1); one alone, or one with a number that is not finite, has nothing in common with any
    other (0).
    """
    answers, targets = np.asarray(answers, np.float64), np.asarray(targets, np.float64)
    sizes = np.abs(answers).max(axis=1, initial=0), np.abs(targets).max(axis=1, initial=0)
    usable = np.isfinite(sizes[0]) & np.isfinite(sizes[1]) & (sizes[0] > 0) & (sizes[1] > 0)
    both_zero = (sizes[0] == 0) & (sizes[1] == 0)
    # scaled first: the squares of very large or small features would overflow or vanish
    a, b = answers[usable] / sizes[0][usable, None], targets[usable] / sizes[1][usable, None]
    cosines: Floats = both_zero.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines[usable] = np.clip((a * b).sum(axis=1) / lengths, -1, 1)
    return cosines


def value(answers: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """The mean cosine similarity."""
    return float(scores(answers, targets).mean())
