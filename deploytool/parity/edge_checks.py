"""Judges an answer at an edge case: by its largest error alone, on the scale that the golden answers have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from deploytool.data.golden import Arrays, Edge, Golden
from deploytool.parity import metrics
from deploytool.parity.metrics import Tolerances
from deploytool.results.output_parts import OutputPart
from deploytool.results.report import Check, Limits, Tolerance

_NO_COSINE, _NO_SNR_DB = -1.0, -400.0  # an answer near zero has no direction, and no power to compare with

Own = Callable[[Edge], Tolerances]  # what the noise of the model at that very edge lets pass


def check(got: Arrays, edge: Edge, sample: Golden, allowed: Tolerances, own: Own, *, half: bool) -> Check | None:
    """The comparison with the FP64 answer; where it breaks what golden noise allows, the noise at the edge is asked.

    FP16 moves answers that are integers wherever two of them tie, as they do all over a picture of one colour: they are
    compared in FP32 alone. None if nothing is left to compare. Raises ValueError for answers of other shapes.
    """
    names = [name for name, array in edge.reference.items() if not half or array.dtype.kind == "f"]
    if not names:
        return None
    parts = {name: [each.part for each in sample.noise.parts if each.part.output == name] for name in names}
    loud = {name: _loudest(sample.reference[name], parts[name]) for name in names}
    answered, expected = (
        {name: np.concatenate([arrays[name], loud[name]]) for name in names} for arrays in (got, edge.reference)
    )

    def checked(tolerances: Tolerances) -> Check:
        tolerance = tolerances.fp16 if half else tolerances.fp32
        return metrics.check(answered, expected, f"FP64 at {edge.name}", _lenient(tolerance))

    first = checked(allowed)
    if not first.broken:
        return first
    second = checked(own(edge))
    return min(first, second, key=lambda each: len(each.broken))


def _lenient(tolerance: Tolerance) -> Tolerance:
    figures = {"cosine": _NO_COSINE, "snr_db": _NO_SNR_DB}
    if not isinstance(tolerance, Limits):
        return replace(tolerance, **figures)
    parts = tuple(replace(each, tolerance=replace(each.tolerance, **figures)) for each in tolerance.parts)
    return replace(tolerance, **figures, parts=parts)


def _loudest(answers: np.ndarray, parts: Sequence[OutputPart]) -> np.ndarray:
    """For each part the golden case with the largest answer: beside it, one near zero is as faint as it is."""
    places = set()
    for part in parts or (OutputPart(""),):
        values = np.asarray(part.of(answers), np.float64)
        sizes = np.where(part.marked(values), 0.0, np.abs(values)).reshape(len(answers), -1).max(axis=1, initial=0.0)
        places.add(int(sizes.argmax()))
    return answers[sorted(places)]
