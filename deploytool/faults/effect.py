"""How large a fault is, channel by channel, whatever scale the checks go by: they must not share its blind spots.

A channel is as large as those like it are, up to ten times larger than itself, and no smaller than what rounding moves
it by says: a class that is quiet by chance is rounded as its neighbours are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays, Golden
from deploytool.parity.metrics import MARGIN32
from deploytool.results.output_parts import OutputPart, same_value

_LIKE = 10.0  # times as large or small: of one kind
_ONCE_DRAWN = 2.0  # so many times as far the most of several roundings moves what one does
_FEW = 2.0  # elements of a case may change, or as many as are ties

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def effects(got: Arrays, expected: Arrays, sample: Golden, limit: float, fp32: float) -> Floats:
    """How far each case is off, in multiples of the `limit` of a check; infinite where it is bad.

    `sample` says how large each channel is, and how far FP32 moves it, whose own limit is `fp32`.
    """
    worst = [_effects(got[name], array, name, sample, fp32, limit) for name, array in expected.items()]
    largest: Floats = np.max(worst, axis=0)
    return largest


def _effects(got: Array, expected: Array, name: str, sample: Golden, fp32: float, limit: float) -> Floats:
    parts = [each for each in sample.noise.parts if each.part.output == name]
    if not np.issubdtype(expected.dtype, np.floating) or (parts and all(each.part.labels for each in parts)):
        changed = (got != expected).reshape(len(got), -1)
        allowed = max([_FEW / max(changed.shape[1], 1), *(each.tied16 for each in parts)])
        return np.asarray(changed.mean(axis=1) / allowed, np.float64)
    marks = parts[0].part if parts else OutputPart(name)
    off, worst = _off(got, expected, marks), np.zeros(len(expected))
    for axis in range(1, expected.ndim) if expected.ndim < 3 else (1, expected.ndim - 1):
        sizes, errors = (_largest(each, axis) for each in _known(sample, name, marks))
        if len(sizes) == expected.shape[axis]:
            each = np.moveaxis(off, axis, 1).reshape(len(off), len(sizes), -1).max(axis=2, initial=0.0)
            worst = np.maximum(worst, (each / _scales(sizes, errors, fp32)).max(axis=1, initial=0.0))
    return worst / limit


def _off(got: Array, expected: Array, marks: OutputPart) -> Floats:
    """The error of each element; of a mark none, unless it is another."""
    mine, theirs = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    marked = replace(marks, axis=0).marked(theirs)
    with np.errstate(invalid="ignore"):
        off = np.nan_to_num(np.abs(mine - theirs), nan=np.inf)
    return np.where(marked, np.where(same_value(mine, theirs), 0.0, np.inf), off)


def _known(sample: Golden, name: str, marks: OutputPart) -> tuple[Floats, Floats]:
    """How large each golden answer is, and how far FP32 moved it."""
    exact = np.asarray(sample.reference[name], np.float64)
    marked = replace(marks, axis=0).marked(exact)
    sizes, errors = np.where(marked, 0.0, np.abs(exact)), _off(sample.outputs[name], exact, marks)
    return sizes, np.where(np.isfinite(errors), errors, 0.0)


def _largest(values: Floats, axis: int) -> Floats:
    found: Floats = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).max(axis=1, initial=0.0)
    return found


def _scales(sizes: Floats, errors: Floats, limit: float) -> Floats:
    """What the errors of each channel are relative to: the largest like it, or what its rounding errors say."""
    order = np.argsort(sizes)
    ordered = sizes[order]
    last = np.searchsorted(ordered, _LIKE * ordered, side="right") - 1
    first = np.searchsorted(ordered, ordered / _LIKE)
    moved = np.array([errors[order][start : stop + 1].max() for start, stop in zip(first, last, strict=True)])
    rounded = MARGIN32.max_error * _ONCE_DRAWN * moved / limit
    like = np.maximum(ordered[last], rounded.clip(max=ordered.max(initial=0.0)))
    scales = np.ones(len(sizes))
    scales[order] = np.where(like > 0, like, ordered.max(initial=0.0) or 1.0)
    return scales
