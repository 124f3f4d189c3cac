"""Boxes as arrays: their formats, intersection over union, and non-maximum suppression per class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput

Floats = npt.NDArray[np.float64]

FORMATS = ("xyxy", "xywh", "cxcywh")


def corners(boxes: npt.NDArray[Any], form: str) -> Floats:
    """Boxes (..., 4) of a format as x1, y1, x2, y2; raises BadInput for an unknown format."""
    values: Floats = np.asarray(boxes, np.float64)
    first, second = values[..., :2], values[..., 2:]
    if form == "xyxy":
        return values
    if form == "xywh":
        return np.concatenate([first, first + second], axis=-1)
    if form == "cxcywh":
        return np.concatenate([first - second / 2, first + second / 2], axis=-1)
    raise BadInput(f"{form!r} is no format of boxes", f"choose one of {', '.join(FORMATS)}")


def areas(boxes: Floats) -> Floats:
    """The areas of boxes x1, y1, x2, y2 (..., 4); 0 where a side is not positive."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(min=0.0)
    product: Floats = sides[..., 0] * sides[..., 1]
    return product


def iou(first: Floats, second: Floats) -> Floats:
    """The intersection over union of every box of `first` (n, 4) with every one of `second` (m, 4): (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = (high - low).clip(min=0.0)
    shared = sides[..., 0] * sides[..., 1]
    union = areas(first)[:, None] + areas(second)[None] - shared
    quotient: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return quotient


def nms(boxes: Floats, scores: Floats, classes: npt.NDArray[np.int64], limit: float, most: int) -> npt.NDArray[np.intp]:
    """The indices of at most `most` boxes that no better one of their class overlaps by more than `limit`; best first.

    Equal scores are in the order of classes, and then of the boxes given.
    """
    order = best_first(scores, classes)
    kept = [_suppress(boxes, order[classes[order] == each], limit, most) for each in np.unique(classes)]
    chosen = np.concatenate([np.zeros(0, np.intp), *kept])
    return chosen[best_first(scores[chosen], classes[chosen])][:most]


def best_first(scores: Floats, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """The order of falling scores; equal ones by class, and then as given."""
    return np.lexsort((classes, -scores))


def _suppress(boxes: Floats, order: npt.NDArray[np.intp], limit: float, most: int) -> npt.NDArray[np.intp]:
    """The indices of one class that remain, for indices in the order of falling scores."""
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[iou(boxes[best : best + 1], boxes[order])[0] <= limit]
    return np.array(kept, np.intp)
