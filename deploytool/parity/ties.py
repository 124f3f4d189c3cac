"""Finds ties: labels and truth values of a model that rounding alone may decide differently.

A torch call that makes integers or truth values from floating-point values is a decision: argmax, comparison, rounding.
The perturbation of its arguments by FP32, FP16 or BF16 arithmetic is recorded, and the call is repeated with random
perturbations of that size. A result that changes is a tie. The model continues with the changed result, so that the
outputs show the consequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode

from deploytool.data.golden import Arrays
from deploytool.parity import detection_rows
from deploytool.parity.metrics import RULES, Rule
from deploytool.spec import Precision
from deploytool.tasks.rows import DetectionRows

_CASES = 4  # on which the perturbation of decision arguments is recorded, and cases in one batch
_DRAWS = 24  # random perturbations: a tie half as wide as the narrowest that matters is missed once in 3,000 times
_RUNS = 6  # with other classes of detections: each runs the model on all cases
_BOTH_SIDES = 2.0  # times the tolerated error: both of two compared values may move towards each other
_ROUNDING_CALLS = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "floor_divide", "remainder", "fmod", "frac")
_UNAFFECTED_CALLS = ("isnan", "isinf", "isfinite", "zeros_like", "ones_like", "full_like", "empty_like")

Run = Callable[[Arrays], Arrays]  # the model's answers to inputs, in some arithmetic
Key = tuple[str, tuple[torch.Size, ...], int]  # of a call: name, shapes of its arguments per case, number among such
_Values = Mapping[Key, Sequence[torch.Tensor]]


@dataclass(frozen=True)
class PerturbedRuns:
    """Runs of a model in FP64, and as rounding perturbs it in FP32 and in FP16."""

    exact: Run
    single: tuple[Run, ...]
    half: tuple[Run, ...]


@dataclass(frozen=True)
class Ties:
    """The least and the largest value that FP32 and FP16 may decide for each output: (2, cases, ...)."""

    fp32: Arrays
    fp16: Arrays


@dataclass(frozen=True)
class _Choice:
    """Which of the results of `draws` random perturbations replaces a decision: an extreme, or the last one."""

    extreme: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    draws: int = _DRAWS
    seed: int = 0


def find(
    runs: PerturbedRuns,
    inputs: Arrays,
    reference: Arrays,
    names: Sequence[str],
    rows: DetectionRows | None = None,
) -> Ties:
    """The ties in the outputs `names`; `reference` holds the FP64 answers to the inputs.

    With `rows`, a tie is one of the classes of the same detection, wherever it stands, and the ties hold all outputs
    of these rows, so that they can be brought into the order of other answers. Raises StageFailed where the model does
    not support such a run.
    """
    return Ties(
        find_in(Precision.FP32, runs.exact, runs.single, inputs, reference, names, rows),
        find_in(Precision.FP16, runs.exact, runs.half, inputs, reference, names, rows),
    )


def find_in(
    precision: Precision,
    exact: Run,
    perturbed: Sequence[Run],
    inputs: Arrays,
    reference: Arrays,
    names: Sequence[str],
    rows: DetectionRows | None = None,
) -> Arrays:
    """The ties in one precision, whose rounding the runs `perturbed` have."""
    first = {name: array[:_CASES] for name, array in inputs.items()}
    reach = _reach(_record(exact, first), [_record(run, first) for run in perturbed], RULES[precision])
    if rows is not None:
        return _of_rows(exact, inputs, reference, reach, rows)
    extremes = [
        _decide_differently(exact, inputs, reach, choice) for choice in (_Choice(torch.minimum), _Choice(torch.maximum))
    ]
    return {name: _span(reference[name], *(extreme[name] for extreme in extremes)) for name in names}


def _of_rows(
    run: Run, inputs: Arrays, reference: Arrays, reach: Mapping[Key, list[float]], rows: DetectionRows
) -> Arrays:
    """The ends of the classes of every detection over runs that decide at random, and the other values as they are."""
    least, most = (dict(reference) for _ in range(2))
    for seed in range(_RUNS):
        drawn = _decide_differently(run, inputs, reach, _Choice(draws=1, seed=seed))
        near = detection_rows.near_rows(drawn, reference, rows)
        least = {name: np.minimum(array, near[name]) for name, array in least.items()}
        most = {name: np.maximum(array, near[name]) for name, array in most.items()}
    ends = {name: np.stack([reference[name], reference[name]]) for name in rows.outputs}
    if rows.classes is not None:
        name = rows.classes.output
        for end, found in zip(ends[name], (least, most), strict=True):
            rows.classes.of(end)[...] = rows.classes.of(found[name])
    return ends


def _batches(inputs: Arrays) -> Iterator[Arrays]:
    """The inputs in batches of the size on which the arguments were recorded, since keys depend on the calls made."""
    cases = len(next(iter(inputs.values())))
    for start in range(0, cases, _CASES):
        yield {name: array[start : start + _CASES] for name, array in inputs.items()}


def _record(run: Run, inputs: Arrays) -> _Values:
    mode = _RecordArguments()
    with mode:
        run(inputs)
    return mode.recorded


def _reach(exact: _Values, perturbed: Sequence[_Values], rule: Rule) -> dict[Key, list[float]]:
    """For each argument of a decision, the tolerated error: the rule's margin times its perturbation by rounding."""
    reach: dict[Key, list[float]] = {}
    for key, values in exact.items():
        others = [recorded[key] for recorded in perturbed if key in recorded]
        reach[key] = [_tolerated(value, [other[index] for other in others], rule) for index, value in enumerate(values)]
    return reach


def _tolerated(value: torch.Tensor, perturbed: Sequence[torch.Tensor], rule: Rule) -> float:
    finite = value[value.isfinite()]
    if not finite.numel() or bool((finite == finite.round()).all()):  # integers were decided before
        return 0.0
    differences = [
        (other - value)[value.isfinite() & other.isfinite()].abs() for other in perturbed if other.shape == value.shape
    ]
    largest = max((float(difference.max()) for difference in differences if difference.numel()), default=0.0)
    return min(rule.margin.max_error * largest, rule.coarsest * float(finite.abs().max()))


def _span(*answers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The least and the largest of several answers, in the smallest type that holds them."""
    ends = np.stack([np.min(answers, axis=0), np.max(answers, axis=0)])
    if ends.dtype == np.bool_ or not ends.size or (ends != np.rint(ends)).any():
        return ends
    smallest_type = np.result_type(np.min_scalar_type(int(ends.min())), np.min_scalar_type(int(ends.max())))
    return ends.astype(smallest_type)


def _decide_differently(run: Run, inputs: Arrays, reach: Mapping[Key, list[float]], choice: _Choice) -> Arrays:
    answers = []
    for batch in _batches(inputs):
        with _ReplaceDecisions(reach, choice):
            answers.append(run(batch))
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


class _DecisionMode(TorchFunctionMode):
    """Intercepts every torch call that decides."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[tuple[str, tuple[torch.Size, ...]], int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named, name = kwargs or {}, getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__")
        arguments = None if in_place else _floating((*args, *named.values()))
        result = func(*args, **named)
        if not arguments or name in _UNAFFECTED_CALLS:
            return result
        if name not in _ROUNDING_CALLS and len(_floating(result)) == len(_tensors(result)):
            return result
        shapes = tuple(value.shape[1:] for value in arguments)
        number = self._calls.get((name, shapes), 0)
        self._calls[name, shapes] = number + 1
        return self.decided(_Call(func, args, named, result), (name, shapes, number), arguments)

    def decided(self, call: _Call, key: Key, arguments: list[torch.Tensor]) -> Any:
        """The result with which the model continues after a decision."""
        raise NotImplementedError


class _RecordArguments(_DecisionMode):
    """Records the arguments of every decision."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: dict[Key, list[torch.Tensor]] = {}

    def decided(self, call: _Call, key: Key, arguments: list[torch.Tensor]) -> Any:
        self.recorded[key] = [value.detach().double().clone() for value in arguments]
        return call.result


class _ReplaceDecisions(_DecisionMode):
    """Replaces each decision by one, or by the least or the largest, that perturbed arguments lead to."""

    def __init__(self, reach: Mapping[Key, list[float]], choice: _Choice) -> None:
        super().__init__()
        self._reach, self._random = reach, torch.Generator().manual_seed(0)
        self._choice = choice
        self._random.manual_seed(choice.seed)

    def decided(self, call: _Call, key: Key, arguments: list[torch.Tensor]) -> Any:
        reach = self._reach.get(key)
        if not reach or not any(reach):
            return call.result
        extremes = [tensor.clone() for tensor in _tensors(call.result)]
        for _ in range(self._choice.draws):
            moved = [self._perturbed(value, _BOTH_SIDES * by) for value, by in zip(arguments, reach, strict=True)]
            for extreme, other in zip(extremes, _tensors(call.repeat(moved)), strict=True):
                decides = call.name in _ROUNDING_CALLS or not extreme.is_floating_point()
                if extreme.shape == other.shape and decides:
                    extreme.copy_(self._extreme_of(extreme, other))
        return _rebuilt(call.result, iter(extremes))

    def _extreme_of(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        if self._choice.extreme is None:
            return second
        if first.dtype == torch.bool:
            return self._choice.extreme(first.byte(), second.byte()).bool()
        return self._choice.extreme(first, second)

    def _perturbed(self, value: torch.Tensor, by: float) -> torch.Tensor:
        drawn = torch.rand(value.shape, generator=self._random, dtype=value.dtype).to(value.device)
        return value + (2 * drawn - 1) * by


@dataclass(frozen=True)
class _Call:
    """A torch call and its result."""

    func: Callable[..., Any]
    args: Sequence[Any]
    named: Mapping[str, Any]
    result: Any

    @property
    def name(self) -> str:
        return str(getattr(self.func, "__name__", ""))

    def repeat(self, arguments: Sequence[torch.Tensor]) -> Any:
        """The result of the same call with other floating-point tensors."""
        fresh = iter(arguments)
        args = [_replaced(value, fresh) for value in self.args]
        return self.func(*args, **{name: _replaced(value, fresh) for name, value in self.named.items()})


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in a value or in a nested list or tuple, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _floating(value: Any) -> list[torch.Tensor]:
    return [tensor for tensor in _tensors(value) if tensor.is_floating_point()]


def _replaced(value: Any, fresh: Iterator[torch.Tensor]) -> Any:
    """A value with its floating-point tensors replaced."""
    if isinstance(value, torch.Tensor):
        return next(fresh) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)) and _floating(value):
        return [_replaced(item, fresh) for item in value]
    return value


def _rebuilt(result: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """A result with its tensors replaced: a tensor, or one of torch's named tuples."""
    if isinstance(result, torch.Tensor):
        return next(tensors)
    return type(result)([_rebuilt(item, tensors) for item in result])
