"""Measures the effect of a fault channel by channel, independently of the scales of the checks that it tests.

The scale of a channel is the largest of the channels of similar size, up to ten times its own, and at least what its
rounding errors imply: a class that is small by chance is rounded as its neighbours are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays, Golden
from deploytool.parity import detection_rows
from deploytool.parity.metrics import MARGIN32
from deploytool.results.output_parts import OutputPart, same_value

_SIMILAR = 10.0  # ratio up to which two channels are of similar size
_MAX_OF_DRAWS = 2.0  # ratio of the largest of several rounding errors to a single one
_FEW = 2.0  # label elements of a case that may change, unless more are ties

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def effects(got: Arrays, expected: Arrays, sample: Golden, limit: float, fp32: float) -> Floats:
    """The effect on each case in multiples of a check's `limit`; infinite where a value is NaN or a mark is lost.

    `sample` gives the size and the FP32 rounding error of each channel, `fp32` is the tolerance in FP32.
    """
    got = detection_rows.aligned_by_most(got, expected, sample.noise.rows)
    by_output = [_effects(got[name], array, name, sample, fp32, limit) for name, array in expected.items()]
    largest: Floats = np.max(by_output, axis=0)
    return largest


def _effects(got: Array, expected: Array, name: str, sample: Golden, fp32: float, limit: float) -> Floats:
    perturbations = [moved for moved in sample.noise.parts if moved.part.output == name]
    is_float = np.issubdtype(expected.dtype, np.floating)
    if not is_float or (perturbations and all(moved.part.labels for moved in perturbations)):
        changed = (got != expected).reshape(len(got), -1)
        allowed = max([_FEW / max(changed.shape[1], 1), *(moved.tied16 for moved in perturbations)])
        return np.asarray(changed.mean(axis=1) / allowed, np.float64)
    part = perturbations[0].part if perturbations else OutputPart(name)
    errors, worst = _errors(got, expected, part), np.zeros(len(expected))
    for axis in range(1, expected.ndim) if expected.ndim < 3 else (1, expected.ndim - 1):
        sizes, rounding = (_largest(values, axis) for values in _golden_sizes(sample, name, part))
        if len(sizes) == expected.shape[axis]:
            by_channel = np.moveaxis(errors, axis, 1).reshape(len(errors), len(sizes), -1).max(axis=2, initial=0.0)
            worst = np.maximum(worst, (by_channel / _scales(sizes, rounding, fp32)).max(axis=1, initial=0.0))
    return worst / limit


def _errors(got: Array, expected: Array, part: OutputPart) -> Floats:
    """The absolute error of each element; of a mark 0 if both are the same mark, else infinite."""
    actual, wanted = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    marked = replace(part, axis=0).marked(wanted)
    with np.errstate(invalid="ignore"):
        errors = np.nan_to_num(np.abs(actual - wanted), nan=np.inf)
    return np.where(marked, np.where(same_value(actual, wanted), 0.0, np.inf), errors)


def _golden_sizes(sample: Golden, name: str, part: OutputPart) -> tuple[Floats, Floats]:
    """The absolute value and the FP32 error of each golden answer; 0 for marks."""
    exact = np.asarray(sample.reference[name], np.float64)
    marked = replace(part, axis=0).marked(exact)
    sizes, errors = np.where(marked, 0.0, np.abs(exact)), _errors(sample.outputs[name], exact, part)
    return sizes, np.where(np.isfinite(errors), errors, 0.0)


def _largest(values: Floats, axis: int) -> Floats:
    largest: Floats = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).max(axis=1, initial=0.0)
    return largest


def _scales(sizes: Floats, errors: Floats, limit: float) -> Floats:
    """The scale of each channel: the largest channel of similar size, or what the rounding errors imply."""
    order = np.argsort(sizes)
    ordered = sizes[order]
    last = np.searchsorted(ordered, _SIMILAR * ordered, side="right") - 1
    first = np.searchsorted(ordered, ordered / _SIMILAR)
    rounding = np.array([errors[order][start : stop + 1].max() for start, stop in zip(first, last, strict=True)])
    implied = MARGIN32.max_error * _MAX_OF_DRAWS * rounding / limit
    similar = np.maximum(ordered[last], implied.clip(max=ordered.max(initial=0.0)))
    scales = np.ones(len(sizes))
    scales[order] = np.where(similar > 0, similar, ordered.max(initial=0.0) or 1.0)
    return scales
