"""Puts the rows of a detector's answers in the order of other answers to the same inputs.

Rounding swaps detections of nearly equal scores, and at the end of a selection it replaces them. Rows are matched one
to one, the nearest pair first: by the differences of their boxes and scores, relative to the largest of the case, with
rows of another class far away. Then the expected row is put in place of each replacement that rounding explains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.tasks import replacements
from deploytool.tasks.replacements import CaseRows, Mask, Reach, Replacements
from deploytool.tasks.rows import DetectionRows

Arrays = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float64]
Order = npt.NDArray[np.intp]

_OTHER_CLASS = 8.0  # distance of rows of different classes: beyond that of any two of one class
_OUT_OF_PLACE = 1e-9  # added to the distance of rows in different places: equal rows stay where they are
_FAR = 1e9  # distance of a row that is not finite
_MOST_REPLACED = 0.25  # share of all rows: more replacements than that are no rounding, and none is accepted


@dataclass(frozen=True)
class Aligned:
    """Answers in the order of others; `moved` counts rows that changed places, `replaced` those that were put in.

    `swapped` is the share of rows that were put in below the threshold, or since a suppression kept another one of
    nearly equal score.
    """

    answers: dict[str, npt.NDArray[Any]]
    moved: int
    replaced: int
    swapped: float


def orders(got: Arrays, expected: Arrays, rows: DetectionRows) -> Order:
    """For every row of `expected` the index of the row of `got` that belongs to it: (cases, N)."""
    cases = min(len(arrays[name]) for arrays in (got, expected) for name in rows.outputs if name in arrays)
    matched = [_match(case_rows(got, rows, case), case_rows(expected, rows, case)) for case in range(cases)]
    return np.array(matched, np.intp).reshape(cases, -1)


def permuted(arrays: Arrays, order: Order, rows: DetectionRows) -> dict[str, npt.NDArray[Any]]:
    """Answers with their rows in an order from `orders`; further cases, and other outputs, stay as they are."""
    result, cases = dict(arrays), np.arange(len(order))[:, None]
    for name in rows.outputs:
        if name in arrays:
            result[name] = np.concatenate([arrays[name][cases, order], arrays[name][len(order) :]])
    return result


def align(got: Arrays, expected: Arrays, rows: DetectionRows, reach: Reach) -> Aligned:
    """The answers `got` in the order of `expected`, with the expected row in place of each correct replacement."""
    order = orders(got, expected, rows)
    first = permuted(got, order, rows)
    pairs = [(case_rows(first, rows, case), case_rows(expected, rows, case)) for case in range(len(order))]
    real = max(sum(int(there.real.sum()) for _, there in pairs), 1)
    strict, loose = (_found(pairs, reach, rows, swaps=swaps) for swaps in (False, True))
    swapped = int(loose.replaced.sum()) - int(strict.replaced.sum())
    chosen, swapped = (loose, swapped) if swapped <= rows.swapped * real else (strict, 0)
    replaced = chosen.replaced
    if replaced.sum() > max(1.0, _MOST_REPLACED * real):
        replaced, swapped = np.zeros(order.shape, np.bool_), 0
    order = np.take_along_axis(order, chosen.order, axis=1)
    answers = put_in(permuted(got, order, rows), expected, replaced, rows)
    moved = int((order != np.arange(order.shape[1])).sum())
    return Aligned(answers, moved, int(replaced.sum()), swapped / real)


def _found(
    pairs: Sequence[tuple[CaseRows, CaseRows]], reach: Reach, rows: DetectionRows, *, swaps: bool
) -> Replacements:
    """The replacements of all cases: (cases, N)."""
    found = [
        replacements.find(here, there, reach.at(case), rows.decoding, swaps=swaps)
        for case, (here, there) in enumerate(pairs)
    ]
    return Replacements(np.array([each.order for each in found]), np.array([each.replaced for each in found]))


def put_in(answers: Arrays, expected: Arrays, where: Mask, rows: DetectionRows) -> dict[str, npt.NDArray[Any]]:
    """Answers with the expected rows at the places `where` (cases, N)."""
    result = dict(answers)
    for name in rows.outputs:
        if name in answers and where.any():
            array = answers[name].copy()
            array[: len(where)][where] = expected[name][: len(where)][where].astype(array.dtype)
            result[name] = array
    return result


def case_rows(arrays: Arrays, rows: DetectionRows, case: int) -> CaseRows:
    """The rows of one case; without classes among the arrays all are of one class."""
    boxes = np.asarray(rows.boxes.of(arrays[rows.boxes.output])[case], np.float64)
    scores = np.asarray(rows.scores.of(arrays[rows.scores.output])[case, :, 0], np.float64)
    classes = np.zeros(len(boxes))
    if rows.classes is not None and rows.classes.output in arrays:
        classes = np.asarray(rows.classes.of(arrays[rows.classes.output])[case, :, 0], np.float64)
    return CaseRows(boxes, scores, classes)


def _match(got: CaseRows, expected: CaseRows) -> Order:
    """For every expected row the index of its own, the nearest pair of all first; of equal pairs the first."""
    distances = _distances(got, expected)
    order = np.zeros(len(expected.boxes), np.intp)
    left, right = np.arange(len(got.boxes)), np.arange(len(expected.boxes))
    while len(left):
        nearest, back = distances.argmin(axis=1), distances.argmin(axis=0)
        mutual = back[nearest] == np.arange(len(left))  # also holds for the nearest pair of all
        order[right[nearest[mutual]]] = left[mutual]
        still = np.ones(len(right), np.bool_)
        still[nearest[mutual]] = False
        left, right, distances = left[~mutual], right[still], distances[~mutual][:, still]
    return order


def _distances(got: CaseRows, expected: CaseRows) -> Floats:
    """The distance of every row of `got` from every expected one: (N, N)."""
    with np.errstate(invalid="ignore", over="ignore"):
        box_scale, score_scale = (
            float(np.abs(values).max(initial=0.0, where=np.isfinite(values))) or 1.0
            for values in (expected.boxes, expected.scores)
        )
        apart = np.zeros((len(got.boxes), len(expected.boxes)))
        for axis in range(4):  # one after the other: all differences at once would take four times the memory
            difference = np.abs(got.boxes[:, None, axis] - expected.boxes[None, :, axis])
            np.maximum(apart, difference / box_scale, out=apart)
        apart += np.abs(got.scores[:, None] - expected.scores[None]) / score_scale
    apart = np.nan_to_num(apart, nan=_FAR, posinf=_FAR).clip(max=_FAR)
    apart += _OTHER_CLASS * (got.classes[:, None] != expected.classes[None])
    apart += _OUT_OF_PLACE
    diagonal = np.arange(min(apart.shape))
    apart[diagonal, diagonal] -= _OUT_OF_PLACE
    return apart
