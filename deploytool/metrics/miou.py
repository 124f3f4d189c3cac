"""Mean intersection over union (mIoU) of maps of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput

Floats = npt.NDArray[np.float64]
ClassMap = npt.NDArray[Any]

IGNORE = 255  # pixels of this target count neither for nor against any class


def scores(answers: Sequence[ClassMap], targets: Sequence[ClassMap]) -> Floats:
    """The mIoU of each image alone, over the classes of its target; 1 for a target without a labelled pixel.

    Answers and targets are integer maps of classes (height, width), a pair of the same size.
    """
    overlap, union, marked = _pixels(answers, targets)
    ratios = np.divide(overlap, union, out=np.zeros_like(overlap), where=marked > 0)
    classes = (marked > 0).sum(axis=1)
    return np.where(classes > 0, ratios.sum(axis=1) / np.maximum(classes, 1), 1.0)


def value(answers: Sequence[ClassMap], targets: Sequence[ClassMap]) -> float:
    """The IoU of each class over the pixels of all images, averaged over the classes that occur in a target.

    Raises `BadInput` for targets without a labelled pixel.
    """
    return float(resampler(answers, targets)(np.ones((1, len(targets))))[0])


def resampler(answers: Sequence[ClassMap], targets: Sequence[ClassMap]) -> Callable[[Floats], Floats]:
    """A function from positive weights (resamples × images) to the value with images so weighted."""
    overlap, union, marked = _pixels(answers, targets)
    occurs = marked.sum(axis=0) > 0
    if not occurs.any():
        raise BadInput("the labels have no pixel of any class", f"use class numbers below {IGNORE} in the labels")

    def weighted(weights: Floats) -> Floats:
        return np.asarray(((weights @ overlap[:, occurs]) / (weights @ union[:, occurs])).mean(axis=1), np.float64)

    return weighted


def _pixels(answers: Sequence[ClassMap], targets: Sequence[ClassMap]) -> tuple[Floats, Floats, Floats]:
    """For each image and class, the pixels of the intersection, of the union and of the target (images × classes)."""
    labelled = [np.asarray(target) != IGNORE for target in targets]
    pairs = [
        (np.asarray(answer)[here].astype(np.int64), np.asarray(target)[here].astype(np.int64))
        for answer, target, here in zip(answers, targets, labelled, strict=True)
    ]
    if any((target < 0).any() for _, target in pairs):
        raise BadInput("a pixel of the labels has a class below 0", f"mark pixels without a class as {IGNORE}")
    classes = 1 + max((int(target.max()) for _, target in pairs if target.size), default=0)
    counts = np.zeros((3, len(pairs), classes))
    for image, (answer, target) in enumerate(pairs):
        # an answer that is a class of no target counts against the class of its target alone
        known = (answer >= 0) & (answer < classes)
        overlap = np.bincount(target[answer == target], minlength=classes)
        marked = np.bincount(target, minlength=classes)
        counts[:, image] = overlap, marked + np.bincount(answer[known], minlength=classes) - overlap, marked
    return counts[0], counts[1], counts[2]
