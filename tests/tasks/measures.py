"""Mean average precision and mean intersection over union, in code that shares nothing with deploytool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Found = tuple[Array, Array, Array]  # boxes (n × 4, corners), scores and classes of one picture
Truth = tuple[Array, Array]  # boxes and classes of one picture

RECALLS = np.linspace(0, 1, 101)  # where COCO samples the precision


def ious(first: Array, second: Array) -> Array:
    """The intersection over union of every box of one list with every box of another."""
    corners = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    common = corners.clip(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)  # type: ignore[no-any-return]


def suppress(found: Found, iou: float, threshold: float, top: int) -> Found:
    """What non-maximum suppression by class leaves, best first."""
    boxes, scores, classes = found
    order = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] >= threshold]
    kept: list[int] = []
    for index in order:
        same = [other for other in kept if classes[other] == classes[index]]
        if not same or ious(boxes[[index]], boxes[same]).max() <= iou:
            kept.append(index)
    best = kept[:top]
    return boxes[best], scores[best], classes[best]


def from_cells(boxes: Array, scores: Array, iou: float, threshold: float, top: int) -> Found:
    """The objects of one picture in the boxes (N × 4) and scores (N × C) of cells, each cell and class a box."""
    cells, classes = np.nonzero(scores >= threshold)
    return suppress((boxes[cells], scores[cells, classes], classes), iou, threshold, top)


def selected(outputs: Mapping[str, Array], iou: float, threshold: float, top: int) -> dict[str, Array]:
    """The objects of all pictures in the outputs of `heads`, filled up to `top` with boxes of size 0 and score 0."""
    count = len(outputs["scores"])
    boxes, scores, labels = np.zeros((count, top, 4), np.float32), np.zeros((count, top), np.float32), []
    for number, (of_cells, likely) in enumerate(zip(outputs["boxes"], outputs["scores"], strict=True)):
        found, confidences, classes = from_cells(of_cells, likely, iou, threshold, top)
        boxes[number, : len(found)], scores[number, : len(found)] = found, confidences
        labels.append(np.pad(classes, (0, top - len(found)), constant_values=-1))
    return {"boxes": boxes, "scores": scores, "labels": np.stack(labels)}


def mean_average_precision(found: Sequence[Found], truths: Sequence[Truth], iou: float = 0.5) -> float:
    """The mean over the classes that occur, each picture's boxes matched best first to the best free true box."""
    classes = np.unique(np.concatenate([of_classes for _, of_classes in truths]))
    return float(np.mean([_average_precision(found, truths, kind, iou) for kind in classes]))


def _average_precision(found: Sequence[Found], truths: Sequence[Truth], kind: int, iou: float) -> float:
    scores, hits, total = [], [], 0
    for (boxes, confidences, classes), (true_boxes, true_classes) in zip(found, truths, strict=True):
        true = true_boxes[true_classes == kind]
        of_kind = classes == kind
        order = np.argsort(-confidences[of_kind], kind="stable")
        total += len(true)
        scores.append(confidences[of_kind][order])
        hits.append(_matched(boxes[of_kind][order], true, iou))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit = np.concatenate(hits)[order]
    recall, precision = np.cumsum(hit) / total, np.cumsum(hit) / np.arange(1, len(hit) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, RECALLS)].mean())


def _matched(boxes: Array, true: Array, iou: float) -> Array:
    """Which boxes, best first, are that of a true box which no better one took."""
    overlaps, hit = ious(boxes, true), np.zeros(len(boxes), bool)
    for index, row in enumerate(overlaps):
        if len(row) and row.max() >= iou:
            overlaps[:, int(row.argmax())] = -1.0
            hit[index] = True
    return hit


def mean_iou(predicted: Sequence[Array], masks: Sequence[Array], classes: int, ignored: int) -> float:
    """The mean over the classes of the intersection over union of all pixels that count."""
    table = np.zeros((classes, classes))
    for found, mask in zip(predicted, masks, strict=True):
        counts = mask != ignored
        pairs = mask[counts].astype(np.int64) * classes + found[counts]
        table += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    both = np.diag(table)
    return float((both / (table.sum(0) + table.sum(1) - both)).mean())
