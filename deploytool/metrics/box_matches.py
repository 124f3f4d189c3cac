"""Which detections match which objects: the rules of COCO, as cached arrays for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploytool.tasks.annotations import Boxes
from deploytool.tasks.detections import Detections

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)  # of the IoU
MAX_DETECTIONS = 100  # of one class in one image, the best


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class in all images, best first, and the objects of the class.

    `images` has the image of each detection; `correct` and `ignored` (thresholds × detections) say whether it
    matches an object, or a crowd. `objects` has the number of objects of each image, crowds left out.
    """

    images: Indices
    correct: Flags
    ignored: Flags
    objects: Indices


def match_all(answers: Sequence[Detections], targets: Sequence[Boxes]) -> dict[int, ClassMatches]:
    """The matches of each class that has an object, crowds left out, in any image."""
    # in numpy: faster-coco-eval 1.8 keeps the matches in C++ objects that Python cannot read, and they are needed to
    # weight the images for the interval of a difference
    marked = [target.classes[~np.asarray(target.crowd, bool)] for target in targets]
    classes = np.unique(np.concatenate(marked)) if marked else np.zeros(0, np.int64)
    return {int(number): _match_class(answers, targets, int(number)) for number in classes}


def _match_class(answers: Sequence[Detections], targets: Sequence[Boxes], number: int) -> ClassMatches:
    scores, images, correct, ignored = [np.zeros(0)], [np.zeros(0, np.int64)], [_no_flags()], [_no_flags()]
    objects = np.zeros(len(targets), np.int64)
    for image, (answer, target) in enumerate(zip(answers, targets, strict=True)):
        found, here = answer.classes == number, target.classes == number
        crowd = np.asarray(target.crowd[here], bool)
        objects[image] = (~crowd).sum()
        if not found.any():
            continue
        best = np.argsort(-answer.scores[found], kind="stable")[:MAX_DETECTIONS]
        matched, excused = _match_image(answer.boxes[found][best], target.boxes[here], crowd)
        scores.append(answer.scores[found][best])
        images.append(np.full(len(best), image))
        correct.append(matched)
        ignored.append(excused)
    order = np.argsort(-np.concatenate(scores), kind="stable")  # as COCO: equal scores in the order of the images
    right, left_out = (np.concatenate(parts, axis=1)[:, order] for parts in (correct, ignored))
    return ClassMatches(np.concatenate(images)[order], right, left_out, objects)


def _no_flags(count: int = 0) -> Flags:
    return np.zeros((len(THRESHOLDS), count), bool)


def _match_image(found: Floats, marked: Floats, crowd: Flags) -> tuple[Flags, Flags]:
    """Whether each detection, best first, matches an object or is ignored at each threshold.

    Each takes the object of greatest IoU that is still free, and only where there is none a crowd, which is never
    taken. Of equal ones, COCO takes the last.
    """
    matched, ignored = _no_flags(len(found)), _no_flags(len(found))
    overlaps = iou(found, marked, crowd)
    taken = _no_flags(len(marked))
    rows = np.arange(len(THRESHOLDS))
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    for place in np.flatnonzero((overlaps >= THRESHOLDS[0]).any(axis=1)):
        enough = (overlaps[place] >= least) & ~taken
        for kind, flags in ((~crowd, matched), (crowd, ignored)):
            usable = np.where(enough & kind & ~matched[:, place, None], overlaps[place], -1.0)[:, ::-1]
            last_best = len(crowd) - 1 - usable.argmax(axis=1)
            flags[:, place] = usable.max(axis=1) >= 0
            if flags is matched:
                taken[rows[flags[:, place]], last_best[flags[:, place]]] = True
    return matched, ignored


def iou(found: Floats, marked: Floats, crowd: Flags) -> Floats:
    """The intersection over union of boxes (detections × objects), of a crowd over the area of the detection."""
    low = np.maximum(found[:, None, :2], marked[None, :, :2])
    high = np.minimum(found[:, None, 2:], marked[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (found, marked)]
    whole = np.where(crowd, areas[0][:, None], areas[0][:, None] + areas[1] - overlap)
    ratios: Floats = np.divide(overlap, whole, out=np.zeros_like(overlap), where=whole > 0)
    return ratios


def each_image(answers: Sequence[Detections], targets: Sequence[Boxes]) -> Iterator[dict[int, ClassMatches]]:
    """The matches of each image alone."""
    for answer, target in zip(answers, targets, strict=True):
        yield match_all([answer], [target])
