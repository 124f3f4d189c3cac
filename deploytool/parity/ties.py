"""Finds where rounding alone may decide otherwise: which classes, places or yes-or-no answers of a model are ties.

Every call of torch that makes whole numbers or truth values of real ones decides: an argmax, a comparison, a rounding.
How far rounding moves what it is given is heard, and the call is made again with as much at random on top: what comes
out otherwise then is a tie. The model goes on with that, so that its answers show what follows from it.
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
from deploytool.parity.metrics import ROOM16, ROOM32
from deploytool.results.report import COARSEST

_HEARD = 4  # cases on which it is heard how far rounding moves what is decided on
_DRAWS = 24  # of what is added: a tie half as wide as any that counts is missed once in 3,000 times
_TWICE = 2.0  # the tolerated error: two values may come nearer to each other by both
_WHOLE = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "floor_divide", "remainder", "fmod", "frac")
_PLAIN = ("isnan", "isinf", "isfinite", "zeros_like", "ones_like", "full_like", "empty_like")  # no rounding turns these

Run = Callable[[Arrays], Arrays]  # the model's answers to inputs, in some arithmetic
Key = tuple[str, tuple[torch.Size, ...], int]  # a call: its name, sizes of a case it is given, and which of such it is
_Values = Mapping[Key, Sequence[torch.Tensor]]


@dataclass(frozen=True)
class PerturbedRuns:
    """A model in FP64, and as rounding moves it in FP32 and in FP16."""

    exact: Run
    single: tuple[Run, ...]
    half: tuple[Run, ...]


@dataclass(frozen=True)
class Ties:
    """The least and the most that FP32 and FP16 may decide of each output: (2, cases, ...)."""

    fp32: Arrays
    fp16: Arrays


def find(runs: PerturbedRuns, inputs: Arrays, reference: Arrays, names: Sequence[str]) -> Ties:
    """The ties in these outputs; `reference` are the FP64 answers to the inputs.

    Raises StageFailed where the model does not take such a run.
    """
    few = {name: array[:_HEARD] for name, array in inputs.items()}
    exact = _heard(runs.exact, few)

    def tied(moved: Sequence[Run], room: float) -> Arrays:
        reach = _reach(exact, [_heard(run, few) for run in moved], room)
        ends = [_otherwise(runs.exact, inputs, reach, largest=largest) for largest in (False, True)]
        return {name: _span(reference[name], *(end[name] for end in ends)) for name in names}

    return Ties(tied(runs.single, ROOM32.max_error), tied(runs.half, ROOM16.max_error))


def _batches(inputs: Arrays) -> Iterator[Arrays]:
    """A few cases at once, as many each time as were heard, as far as there are."""
    cases = len(next(iter(inputs.values())))
    for start in range(0, cases, _HEARD):
        yield {name: array[start : start + _HEARD] for name, array in inputs.items()}


def _heard(run: Run, few: Arrays) -> _Values:
    mode = _Heard()
    with mode:
        run(few)
    return mode.heard


def _reach(exact: _Values, moved: Sequence[_Values], room: float) -> dict[Key, list[float]]:
    """By how much each value that a call is given may be off, from how far rounding moved it."""
    found: dict[Key, list[float]] = {}
    for key, values in exact.items():
        others = [one[key] for one in moved if key in one]
        found[key] = [_far(value, [other[place] for other in others], room) for place, value in enumerate(values)]
    return found


def _far(value: torch.Tensor, moved: Sequence[torch.Tensor], room: float) -> float:
    finite = value[value.isfinite()]
    if not finite.numel() or bool((finite == finite.round()).all()):  # decided already: what is whole stays whole
        return 0.0
    apart = [(one - value)[value.isfinite() & one.isfinite()].abs() for one in moved if one.shape == value.shape]
    largest = max((float(one.max()) for one in apart if one.numel()), default=0.0)
    return min(room * largest, COARSEST * float(finite.abs().max()))


def _span(*answers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The least and the most of several answers, in as few bytes as hold them."""
    ends = np.stack([np.min(answers, axis=0), np.max(answers, axis=0)])
    if ends.dtype == np.bool_ or not ends.size or (ends != np.rint(ends)).any():
        return ends
    few = np.result_type(np.min_scalar_type(int(ends.min())), np.min_scalar_type(int(ends.max())))
    return ends.astype(few)


def _otherwise(run: Run, inputs: Arrays, reach: Mapping[Key, list[float]], *, largest: bool) -> Arrays:
    made = []
    for batch in _batches(inputs):
        with _Otherwise(reach, largest=largest):
            made.append(run(batch))
    return {name: np.concatenate([one[name] for one in made]) for name in made[0]}


class _Deciding(TorchFunctionMode):
    """Hears every call that decides."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[tuple[str, tuple[torch.Size, ...]], int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named, name = kwargs or {}, getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__")
        before = None if in_place else _real((*args, *named.values()))
        made = func(*args, **named)
        if not before or name in _PLAIN or (name not in _WHOLE and len(_real(made)) == len(_tensors(made))):
            return made
        shapes = tuple(value.shape[1:] for value in before)
        number = self._calls.get((name, shapes), 0)
        self._calls[name, shapes] = number + 1
        return self.decided(_Call(func, args, named, made), (name, shapes, number), before)

    def decided(self, call: _Call, key: Key, given: list[torch.Tensor]) -> Any:
        """What the model goes on with, after a call that decided."""
        raise NotImplementedError


class _Heard(_Deciding):
    """Keeps what every deciding call is given."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[Key, list[torch.Tensor]] = {}

    def decided(self, call: _Call, key: Key, given: list[torch.Tensor]) -> Any:
        self.heard[key] = [value.detach().double().clone() for value in given]
        return call.made


class _Otherwise(_Deciding):
    """Decides otherwise wherever what a call is given is near enough to that: for the least or the largest there is."""

    def __init__(self, reach: Mapping[Key, list[float]], *, largest: bool) -> None:
        super().__init__()
        self._reach, self._random = reach, torch.Generator().manual_seed(0)
        self._end = torch.maximum if largest else torch.minimum

    def decided(self, call: _Call, key: Key, given: list[torch.Tensor]) -> Any:
        far = self._reach.get(key)
        if not far or not any(far):
            return call.made
        found = [leaf.clone() for leaf in _tensors(call.made)]
        for _ in range(_DRAWS):
            moved = [self._moved(value, _TWICE * by) for value, by in zip(given, far, strict=True)]
            for kept, other in zip(found, _tensors(call.again(moved)), strict=True):
                if kept.shape == other.shape and (call.name in _WHOLE or not kept.is_floating_point()):
                    kept.copy_(self._ended(kept, other))
        return _rebuilt(call.made, iter(found))

    def _ended(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if one.dtype == torch.bool:
            return self._end(one.byte(), other.byte()).bool()
        return self._end(one, other)

    def _moved(self, value: torch.Tensor, by: float) -> torch.Tensor:
        drawn = torch.rand(value.shape, generator=self._random, dtype=value.dtype).to(value.device)
        return value + (2 * drawn - 1) * by


@dataclass(frozen=True)
class _Call:
    """A call of torch, and what it made."""

    func: Callable[..., Any]
    args: Sequence[Any]
    named: Mapping[str, Any]
    made: Any

    @property
    def name(self) -> str:
        return str(getattr(self.func, "__name__", ""))

    def again(self, real: Sequence[torch.Tensor]) -> Any:
        """The same call with other real numbers."""
        fresh = iter(real)
        args = [_replaced(value, fresh) for value in self.args]
        return self.func(*args, **{name: _replaced(value, fresh) for name, value in self.named.items()})


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors of a value, or of a list or tuple, in their order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return [tensor for each in value for tensor in _tensors(each)]
    return []


def _real(value: Any) -> list[torch.Tensor]:
    return [tensor for tensor in _tensors(value) if tensor.is_floating_point()]


def _replaced(value: Any, fresh: Iterator[torch.Tensor]) -> Any:
    """A value with its real tensors replaced."""
    if isinstance(value, torch.Tensor):
        return next(fresh) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)) and _real(value):
        return [_replaced(each, fresh) for each in value]
    return value


def _rebuilt(made: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """A result with its tensors replaced: one, or the named tuple of torch that it was."""
    if isinstance(made, torch.Tensor):
        return next(tensors)
    return type(made)([_rebuilt(each, tensors) for each in made])
