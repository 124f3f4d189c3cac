"""Boxes with scores and classes of one image, and how the outputs of a detector become them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput
from deploytool.spec import Decoding
from deploytool.tasks import boxes as boxes_of
from deploytool.tasks import layouts
from deploytool.tasks.layouts import Found, Layout

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

ACTIVATIONS, BACKGROUNDS = ("none", "sigmoid", "softmax"), ("none", "first", "last")
_MOST_CANDIDATES = 30_000  # of an image, the best ones: suppression of more takes seconds and changes nothing


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, the best first.

    `boxes` is n × 4, the corners x1, y1, x2, y2 in pixels; `scores` has n numbers from 0 to 1, `classes` n indices.
    """

    boxes: Floats
    scores: Floats
    classes: npt.NDArray[np.int64]


def decode(outputs: Mapping[str, Array], how: Decoding, size: tuple[int, int]) -> list[Detections]:
    """The objects of every image of a batch, in pixels of the input, whose height and width are `size`.

    Every class of a box whose score reaches the threshold is an object. Without a background, classes are numbered
    from 0. Values that are not finite are no objects. Raises BadInput where no layout of outputs fits (`layouts`).
    """
    found = layouts.recognise(outputs)
    raw_boxes, scores, classes = _values(outputs, found, how)
    height, width = size
    scale = np.array([width, height, width, height], np.float64) if how.normalised else np.ones(4)
    corners = boxes_of.corners(raw_boxes, how.boxes) * scale
    return [_of_image(corners[image], scores[image], classes[image], how) for image in range(len(corners))]


def class_count(outputs: Mapping[str, Array], how: Decoding) -> int | None:
    """The number of classes that are objects, by the scores of a box; None for outputs that give indices of classes.

    Raises BadInput where no layout of outputs fits.
    """
    found = layouts.recognise(outputs)
    if found.layout in (Layout.ROWS, Layout.JOINED):
        return None
    _, scores, _ = _values({name: array[:1] for name, array in outputs.items()}, found, how)
    return int(scores.shape[-1])


def _values(outputs: Mapping[str, Array], found: Found, how: Decoding) -> tuple[Floats, Floats, Floats]:
    """Boxes (B, N, 4) in their format, scores (B, N, C) from 0 to 1, and the class of each score (B, N, C)."""
    first, second = outputs[found.boxes], outputs[found.scores]
    with np.errstate(invalid="ignore", over="ignore"):
        if found.layout is Layout.ROWS:
            scores, classes = _activated(second[..., None], how), outputs[found.classes][..., None]
            return first, scores, _without_background(classes, how)
        if found.layout is Layout.JOINED:
            return first[..., :4], _activated(first[..., 4:5], how), _without_background(first[..., 5:], how)
        if found.layout is Layout.CHANNELS_FIRST:
            rows = np.moveaxis(first, 1, 2)
            return rows[..., :4], *_per_class(_activated(rows[..., 4:], how), how)
        if found.layout is Layout.CHANNELS_LAST:
            # a softmax is over the classes alone, whatever the activation of the objectness
            objectness = first[..., 4:5] if how.activation == "none" else _sigmoid(first[..., 4:5])
            return first[..., :4], *_per_class(_activated(first[..., 5:], how) * objectness, how)
        return first, *_per_class(_activated(second, how), how)


def _per_class(scores: Floats, how: Decoding) -> tuple[Floats, Floats]:
    """The scores of the classes that are objects, and their numbers from 0."""
    known = {"none": scores, "first": scores[..., 1:], "last": scores[..., :-1]}
    if how.background not in known:
        raise BadInput(
            f"{how.background!r} is no place of a background class", f"choose one of {', '.join(BACKGROUNDS)}"
        )
    objects = known[how.background]
    return objects, np.broadcast_to(np.arange(objects.shape[-1], dtype=np.float64), objects.shape)


def _without_background(classes: Array, how: Decoding) -> Floats:
    """The classes of rows, numbered from 0 where the background is class 0; negative ones are no objects."""
    numbers: Floats = np.asarray(classes, np.float64) - (how.background == "first")
    return numbers


def _activated(values: Array, how: Decoding) -> Floats:
    scores: Floats = np.asarray(values, np.float64)
    if how.activation == "none":
        return scores
    if how.activation == "sigmoid":
        return _sigmoid(scores)
    if how.activation == "softmax":
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
        return np.divide(powers, powers.sum(axis=-1, keepdims=True))  # type: ignore[no-any-return]
    raise BadInput(f"{how.activation!r} is no activation", f"choose one of {', '.join(ACTIVATIONS)}")


def _sigmoid(values: Array) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * np.asarray(values, np.float64)))
    return result


def _of_image(boxes: Floats, scores: Floats, classes: Floats, how: Decoding) -> Detections:
    """The objects of one image: boxes (N, 4), scores and classes (N, C)."""
    whole = np.isfinite(boxes).all(axis=1, keepdims=True)
    finite = whole & np.isfinite(scores) & np.isfinite(classes)
    row, column = np.nonzero(finite & (scores >= how.threshold) & (classes >= 0))
    chosen, values = boxes[row], scores[row, column]
    numbers = np.rint(classes[row, column]).astype(np.int64)
    order = boxes_of.best_first(values, numbers)[:_MOST_CANDIDATES]
    chosen, values, numbers = chosen[order], values[order], numbers[order]
    if how.nms > 0:
        kept = boxes_of.nms(chosen, values, numbers, how.nms, how.top)
        chosen, values, numbers = chosen[kept], values[kept], numbers[kept]
    return Detections(chosen[: how.top], values[: how.top], numbers[: how.top])
