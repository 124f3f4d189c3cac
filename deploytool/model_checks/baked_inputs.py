"""Generates inputs that may take other branches of the model than the export inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays
from deploytool.model_checks.dataflow import PythonRead
from deploytool.spec import Model

_GOLDEN_BATCHES = 6  # further batches of golden cases
_MARGINS = (1.25, 0.8)  # factors on the threshold of a comparison: one on each side of it
_SCALES = {"×30": 30.0, "×1000": 1e3, "×0.03": 0.03, "×0.001": 1e-3, "negative": -1.0}
_SHIFTS = {"plus 1": 1.0, "minus 1": -1.0, "plus 100": 100.0, "minus 100": -100.0}
_MAX_THRESHOLDS = 8  # comparisons that inputs are derived from
_MAX_SCALE = 1e6

Array = npt.NDArray[Any]
Change = Callable[[Array], Array]


@dataclass(frozen=True)
class TrialInputs:
    """A batch of inputs, and a name that says how it was derived from the golden inputs."""

    name: str
    inputs: Arrays


def draw(model: Model, golden: Arrays, count: int, reads: Sequence[PythonRead]) -> Iterator[TrialInputs]:
    """Batches of `count` cases: further golden cases, then scaled, negated, zeroed and shifted inputs.

    Floating-point inputs are changed all together, then one at a time. For each comparison in `reads`, inputs are
    scaled and shifted to either side of its threshold.
    """
    first = {name: array[:count] for name, array in golden.items()}
    for start in range(count, min(count * (_GOLDEN_BATCHES + 1), len(next(iter(golden.values())))), count):
        yield TrialInputs(
            f"golden cases from {start + 1}", {name: _cases(array, start, count) for name, array in golden.items()}
        )
    float_names = [name for name, array in first.items() if array.dtype.kind == "f"]
    groups = [float_names, *([name] for name in float_names if len(float_names) > 1)]
    for group in groups:
        for label, change in _changes(reads):
            with np.errstate(over="ignore", invalid="ignore"):  # an overflow in float16 overflows in the model too
                changed = {name: change(array) if name in group else array for name, array in first.items()}
                yield TrialInputs(f"{' and '.join(group)} {label}", changed)
    yield from _integer_inputs(model, first)


def _changes(reads: Sequence[PythonRead]) -> Iterator[tuple[str, Change]]:
    """Element-wise changes of an input with their labels, those that cross a comparison in `reads` first."""
    operands = dict.fromkeys(read.operands for read in reads if read.operands is not None)
    for left, right in list(operands)[:_MAX_THRESHOLDS]:
        for margin in _MARGINS:
            if left and 1 / _MAX_SCALE < abs(factor := right / left * margin) < _MAX_SCALE:
                yield f"×{factor:.3g}", _scaled(factor)
            shift = right * margin - left
            yield f"plus {shift:.3g}", _shifted(shift)
    for label, factor in _SCALES.items():
        yield label, _scaled(factor)
    yield "zero", _scaled(0.0)
    for label, shift in _SHIFTS.items():
        yield label, _shifted(shift)


def _scaled(factor: float) -> Change:
    return lambda array: (array * array.dtype.type(factor)).astype(array.dtype)


def _shifted(shift: float) -> Change:
    return lambda array: (array + array.dtype.type(shift)).astype(array.dtype)


def _integer_inputs(model: Model, first: Arrays) -> Iterator[TrialInputs]:
    """Integer and boolean inputs at their minimum, at their maximum, and mirrored within their range."""
    for tensor in model.inputs:
        array = first[tensor.name]
        if array.dtype.kind == "f":
            continue
        maximum = 1 if array.dtype.kind == "b" else tensor.below - 1
        variants = {"all minimum": np.zeros_like(array), "all maximum": np.full_like(array, maximum)}
        variants["mirrored"] = (maximum - array.astype(np.int64)).astype(array.dtype)
        for label, changed in variants.items():
            yield TrialInputs(f"{tensor.name} {label}", {**first, tensor.name: changed})


def _cases(array: Array, start: int, count: int) -> Array:
    return np.take(array, range(start, start + count), axis=0, mode="wrap")
