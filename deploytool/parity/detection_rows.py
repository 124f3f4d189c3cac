"""Aligns the answers of detectors before they are compared: detections that a model selected are sets, not sequences.

For a check, the tolerances say which differences rounding explains. While the noise itself is measured there are none:
then a deviation far beyond that of most rows of the same answers is a replacement, if it is one by its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays
from deploytool.parity import scales
from deploytool.results.report import COARSEST, Limit
from deploytool.spec import Model, Task
from deploytool.tasks import align, layouts, replacements
from deploytool.tasks.align import Aligned
from deploytool.tasks.replacements import Reach
from deploytool.tasks.rows import DetectionRows, RowValues

Floats = npt.NDArray[np.float64]

_OUTLIER = 16.0  # times the median deviation of all rows: far more than any row of a correct answer deviates
_EQUAL_SCORES, _MOST_EQUAL = 1e-6, 0.25  # relative difference of equal scores; share of detections with such
_ONE_ROUNDING = 2.0**-20  # the least such deviation


def of_model(model: Model, reference: Arrays) -> DetectionRows | None:
    """The rows of a detector's answers; None for another task, and for heads before a selection."""
    return layouts.selected_rows(reference, model.decoding) if model.task is Task.DETECT else None


def fit(rows: DetectionRows, *answers: Arrays) -> bool:
    """Whether answers have boxes and scores of these rows, of the same shapes."""
    names = (rows.boxes.output, rows.scores.output)
    shapes = [[arrays[name].shape[1:] for name in names if name in arrays] for arrays in answers]
    return all(len(shape) == len(names) and shape == shapes[0] for shape in shapes)


def aligned(got: Arrays, expected: Arrays, rows: DetectionRows | None, limits: Sequence[Limit]) -> Arrays:
    """The answers `got` in the order of `expected`, with the expected row in place of each correct replacement.

    `limits` are the tolerances of all parts. Without rows, and where the answers have none, they stay as they are.
    """
    if rows is None or not fit(rows, got, expected):
        return got
    cases = len(got[rows.boxes.output])
    boxes, scores = (_reach(expected, values, limits)[:cases] for values in (rows.boxes, rows.scores))
    return align.align(got, expected, rows, Reach(boxes, scores[..., 0])).answers


def aligned_by_most(got: Arrays, expected: Arrays, rows: DetectionRows | None) -> Arrays:
    """The same without tolerances: those follow from the median deviation of the rows themselves."""
    if rows is None or not fit(rows, got, expected):
        return got
    return _by_most(got, expected, rows).answers


def swapped(runs: Sequence[Arrays | None], truth: Arrays, rows: DetectionRows) -> float:
    """The largest share of swapped rows in perturbed answers."""
    return max((_by_most(run, truth, rows).swapped for run in runs if run and fit(rows, run, truth)), default=0.0)


def aligned_for(model: Model, got: Arrays, expected: Arrays) -> Arrays:
    """The same for answers of `model`."""
    return aligned_by_most(got, expected, of_model(model, expected))


def in_order(got: Arrays, expected: Arrays, rows: DetectionRows | None) -> Arrays:
    """The answers `got` with their rows in the order of `expected`, and none replaced."""
    if rows is None or not fit(rows, got, expected):
        return got
    return align.permuted(got, align.orders(got, expected, rows), rows)


def near_rows(got: Arrays, expected: Arrays, rows: DetectionRows) -> Arrays:
    """The answers in the order of `expected`, with the expected row in place of every one that is far from its own."""
    reach = _usual_reach(got, expected, rows)
    answers = align.permuted(got, align.orders(got, expected, rows), rows)
    far = [
        replacements.far(align.case_rows(answers, rows, case), align.case_rows(expected, rows, case), reach.at(case))
        for case in range(len(reach.boxes))
    ]
    return align.put_in(answers, expected, np.array(far), rows)


def ordered_ties(ties: Arrays, expected: Arrays, rows: DetectionRows | None) -> Arrays:
    """Ties (2, cases, N, ...), whose boxes and scores are those of the FP64 answers, in the order of `expected`."""
    if rows is None or not {rows.boxes.output, rows.scores.output} <= set(ties):
        return ties
    exact, most = ({name: ends[end] for name, ends in ties.items()} for end in (0, 1))
    if not fit(rows, exact, expected):
        return ties
    order = align.orders(exact, expected, rows)
    ordered = [align.permuted(answers, order, rows) for answers in (exact, most)]
    return {name: np.stack([end[name] for end in ordered]) for name in ties}


def are_arbitrary(answers: Arrays, rows: DetectionRows | None) -> bool:
    """Whether more than a quarter of the detections of a case have the score of another, as on an image of one colour.

    Which of such detections a model selects, and which it suppresses, is decided by the last bits of FP32 numbers.
    """
    if rows is None or not fit(rows, answers):
        return False
    scores = np.sort(np.asarray(rows.scores.of(answers[rows.scores.output])[..., 0], np.float64), axis=1)
    real = np.isfinite(scores) & (scores != 0)
    close = np.diff(scores, axis=1) <= _EQUAL_SCORES * np.abs(scores[:, 1:])
    tied = np.pad(close, ((0, 0), (1, 0))) | np.pad(close, ((0, 0), (0, 1)))
    return bool(((tied & real).sum(axis=1) > _MOST_EQUAL * real.sum(axis=1)).any())


def _by_most(got: Arrays, expected: Arrays, rows: DetectionRows) -> Aligned:
    return align.align(got, expected, replace(rows, swapped=1.0), _usual_reach(got, expected, rows))


def _reach(expected: Arrays, values: RowValues, limits: Sequence[Limit]) -> Floats:
    """The tolerated error of every value (cases, N, channels) in the units of the output."""
    array = np.asarray(expected[values.output], np.float64)
    reach = np.zeros(array.shape)
    for limit in limits:
        part = limit.part
        if part.output != values.output or part.labels:
            continue
        amounts = part.of(array)
        sizes = np.where(part.marked(amounts) | np.isnan(amounts), 0.0, np.abs(amounts))
        by_case = (limit.tolerance.max_error * scales.of_cases(sizes)).reshape(-1, *[1] * (array.ndim - 1))
        for span in part.spans if part.axis else ((0, None),):
            reach[(slice(None),) * max(part.axis, 1) + (slice(*span),)] = by_case
    return values.of(reach)


def _usual_reach(got: Arrays, expected: Arrays, rows: DetectionRows) -> Reach:
    """How far rows may deviate from those in `expected`, if most of them show what rounding does."""
    answers = align.permuted(got, align.orders(got, expected, rows), rows)
    boxes, scores = (
        _usual(values.of(answers[values.output]), values.of(expected[values.output]))
        for values in (rows.boxes, rows.scores)
    )
    return Reach(boxes, scores[..., 0])


def _usual(got: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> Floats:
    exact = np.asarray(expected, np.float64)
    sizes = scales.of_cases(np.where(np.isfinite(exact), np.abs(exact), 0.0)).reshape(-1, 1, 1)
    with np.errstate(invalid="ignore"):
        moved = np.abs(np.asarray(got, np.float64)[: len(exact)] - exact).max(axis=2, keepdims=True) / sizes
    deviations = np.nan_to_num(moved[moved != 0], nan=1.0, posinf=1.0)  # padding has none
    share = _OUTLIER * float(np.median(deviations)) if deviations.size else 0.0
    return np.broadcast_to(sizes * min(max(share, _ONE_ROUNDING), COARSEST), exact.shape)
