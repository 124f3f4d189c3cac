"""Mean average precision (mAP) of COCO: IoU .50:.05:.95, 101 points of recall, 100 detections, all areas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput
from deploytool.metrics import box_matches
from deploytool.metrics.box_matches import THRESHOLDS, ClassMatches
from deploytool.tasks.annotations import Boxes
from deploytool.tasks.detections import Detections

Floats = npt.NDArray[np.float64]

_RECALLS: Floats = np.linspace(0, 1, 101)


def scores(answers: Sequence[Detections], targets: Sequence[Boxes]) -> Floats:
    """The mAP of each image alone, over the classes of its objects.

    An image without an object has 1 if nothing was detected, otherwise 0. The mAP of the set is not the mean of these:
    see `value`.
    """
    empty = [float(len(answer.scores) == 0) for answer in answers]
    each = box_matches.each_image(answers, targets)
    one = np.ones((1, 1))
    return np.array([_mean(matches, one)[0] if matches else empty[i] for i, matches in enumerate(each)], np.float64)


def value(answers: Sequence[Detections], targets: Sequence[Boxes]) -> float:
    """The mAP of the set, averaged over the classes that have an object.

    Raises `BadInput` if no image has an object.
    """
    return float(resampler(answers, targets)(np.ones((1, len(targets))))[0])


def resampler(answers: Sequence[Detections], targets: Sequence[Boxes]) -> Callable[[Floats], Floats]:
    """A function from positive weights (resamples × images) to the mAP with images so weighted."""
    matches = box_matches.match_all(answers, targets)
    if not matches:
        raise BadInput("the labels have no object, so there is no mAP", "give labels with boxes of the model's classes")
    return lambda weights: _mean(matches, weights)


def _mean(matches: Mapping[int, ClassMatches], weights: Floats) -> Floats:
    return np.asarray(np.mean([_average_precision(one, weights) for one in matches.values()], axis=0), np.float64)


def _average_precision(matches: ClassMatches, weights: Floats) -> Floats:
    """The average precision of a class for each row of weights, averaged over the thresholds."""
    total = np.zeros(len(weights))
    if not len(matches.images):
        return total
    of_detections = weights[:, matches.images]
    detected = of_detections.cumsum(axis=1)
    objects = weights @ matches.objects
    for correct, ignored in zip(matches.correct, matches.ignored, strict=True):
        # precision falls between correct detections, so that its envelope needs their places alone
        places = np.flatnonzero(correct)
        if not len(places):
            continue
        found = of_detections[:, places].cumsum(axis=1)
        counted = detected[:, places]
        if ignored.any():
            excused = np.flatnonzero(ignored)
            sums = np.pad(of_detections[:, excused].cumsum(axis=1), ((0, 0), (1, 0)))
            counted = counted - sums[:, np.searchsorted(excused, places)]
        recall = found / objects[:, None]
        if len(places) == matches.objects.sum():
            recall[:, -1] = 1  # two sums of the same weights in different order can differ by rounding
        total += _area(found / counted, recall)
    return total / len(THRESHOLDS)


def _area(precision: Floats, recall: Floats) -> Floats:
    """The mean of the precision envelope at the 101 points of recall (rows × correct detections)."""
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(_RECALLS, recall, side="right")
    points = np.diff(reached, axis=1, prepend=0)
    return np.asarray((envelope * points).sum(axis=1) / len(_RECALLS), np.float64)
