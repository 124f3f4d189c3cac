"""Inputs that may take another way through the model than those it was exported with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays
from deploytool.model_checks.dataflow import PythonRead
from deploytool.spec import Model

_GOLDEN = 6  # batches of other golden cases
_BEYOND = (1.25, 0.8)  # times what would be just enough to cross
_LOUDNESS = {"×30": 30.0, "×1000": 1e3, "×0.03": 0.03, "×0.001": 1e-3, "negative": -1.0}
_SHIFTS = {"plus 1": 1.0, "minus 1": -1.0, "plus 100": 100.0, "minus 100": -100.0}
_MOST_CROSSINGS = 8  # comparisons that are looked at
_LARGEST = 1e6  # times louder, and no more

Array = npt.NDArray[Any]
Change = Callable[[Array], Array]


@dataclass(frozen=True)
class TrialInputs:
    """Inputs with a name that says what was done to the golden ones."""

    name: str
    inputs: Arrays


def draw(model: Model, golden: Arrays, count: int, reads: Sequence[PythonRead]) -> Iterator[TrialInputs]:
    """Batches of `count` cases: more golden ones, loud, quiet, negative, zero and shifted ones, each input in turn.

    What the comparisons in `reads` suggest is among them: inputs that are just loud or high enough to cross.
    """
    first = {name: array[:count] for name, array in golden.items()}
    for start in range(count, min(count * (_GOLDEN + 1), len(next(iter(golden.values())))), count):
        yield TrialInputs(
            f"golden cases from {start + 1}", {name: _cut(array, start, count) for name, array in golden.items()}
        )
    names = [name for name, array in first.items() if array.dtype.kind == "f"]
    groups = [names, *([name] for name in names if len(names) > 1)]
    for group in groups:
        for name, change in _changes(reads):
            called = f"{' and '.join(group)} {name}"
            with np.errstate(over="ignore", invalid="ignore"):  # of float16: then the model has no answer either
                yield TrialInputs(
                    called, {each: change(array) if each in group else array for each, array in first.items()}
                )
    yield from _whole_numbers(model, first)


def _changes(reads: Sequence[PythonRead]) -> Iterator[tuple[str, Change]]:
    sides = dict.fromkeys(read.crossing for read in reads if read.crossing is not None)
    for left, right in list(sides)[:_MOST_CROSSINGS]:
        for beyond in _BEYOND:
            if left and 1 / _LARGEST < abs(factor := right / left * beyond) < _LARGEST:
                yield f"×{factor:.3g}", _scaled(factor)
            shift = right * beyond - left
            yield f"plus {shift:.3g}", _shifted(shift)
    for name, factor in _LOUDNESS.items():
        yield name, _scaled(factor)
    yield "zero", _scaled(0.0)
    for name, shift in _SHIFTS.items():
        yield name, _shifted(shift)


def _scaled(factor: float) -> Change:
    return lambda array: (array * array.dtype.type(factor)).astype(array.dtype)


def _shifted(shift: float) -> Change:
    return lambda array: (array + array.dtype.type(shift)).astype(array.dtype)


def _whole_numbers(model: Model, first: Arrays) -> Iterator[TrialInputs]:
    """The least, the largest and turned whole numbers and truths."""
    for tensor in model.inputs:
        array = first[tensor.name]
        if array.dtype.kind == "f":
            continue
        most = 1 if array.dtype.kind == "b" else tensor.below - 1
        ends = {"all least": np.zeros_like(array), "all largest": np.full_like(array, most)}
        ends["turned"] = (most - array.astype(np.int64)).astype(array.dtype)
        for name, changed in ends.items():
            yield TrialInputs(f"{tensor.name} {name}", {**first, tensor.name: changed})


def _cut(array: Array, start: int, count: int) -> Array:
    return np.take(array, range(start, start + count), axis=0, mode="wrap")
