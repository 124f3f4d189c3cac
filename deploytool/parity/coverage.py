"""Which golden cases show most of a model: each channel of each layer as loud and as low as it gets.

A fault in a channel that no golden case wakes goes unnoticed, so the cases are chosen that wake the most of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from deploytool.backends import eager
from deploytool.data.golden import Arrays
from deploytool.host import exception_text
from deploytool.loading.module import outputs
from deploytool.loading.module.exportable import without_attention_fastpath
from deploytool.spec import Model

_WEIGHTS = "parametrizations"  # what torch calls the part of a module that makes its weights
_AT_ONCE = 8  # cases, so that all answers of a batch fit into memory

Floats = npt.NDArray[np.float64]
Place = tuple[str, int, str]  # a module, which call of it in a run, and which of the tensors that it gives


@dataclass(frozen=True)
class ChannelCoverage:
    """The answers of a model, how far each channel goes up and down (cases × extremes, from 0 up), and what to know.

    There are no extremes where a model cannot be listened to; `remark` says why.
    """

    answers: Arrays
    extremes: Floats
    remark: str | None = None


def measure(module: nn.Module, model: Model, inputs: Arrays) -> ChannelCoverage:
    """Runs the model on all cases, and listens to the modules without parts of their own.

    A channel is the second axis of what such a module gives. Where its batch lies is not assumed but found, by running
    one case alone and then several: what does not grow with them, such as a table of positions, belongs to no case.
    """
    session, cases = eager.make_session(module, model), len(next(iter(inputs.values())))
    size = model.inputs[0].shape[0]
    at_once = size if isinstance(size, int) else _AT_ONCE
    ear = _Ear()
    answers: list[dict[str, npt.NDArray[Any]]] = []
    tables: list[dict[Place, torch.Tensor]] = []
    with ear.on(module), without_attention_fastpath():
        if not isinstance(size, int):
            ear.cases = 0
            session(**{name: array[:1] for name, array in inputs.items()})
        for first in range(0, cases, at_once):
            few = {name: array[first : first + at_once] for name, array in inputs.items()}
            ear.cases = at_once if isinstance(size, int) else len(next(iter(few.values())))
            answers.append(session(**few))
            tables.append(ear.taken())
    joined = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    extremes = _joined(tables, cases)
    if ear.problem is None and extremes.shape == (cases, 0) and any(True for _ in module.parameters()):
        ear.problem = "no part of the model gives anything that grows with the batch"
    if ear.problem is not None:
        return ChannelCoverage(joined, np.zeros((cases, 0)), f"golden cases were not chosen by coverage: {ear.problem}")
    return ChannelCoverage(joined, extremes)


def _joined(tables: Sequence[dict[Place, torch.Tensor]], cases: int) -> Floats:
    """Cases × extremes of all that was heard each time, in the order in which it was."""
    places = [place for place, first in tables[0].items() if all(_alike(first, table.get(place)) for table in tables)]
    if not places:
        return np.zeros((cases, 0))
    return torch.cat([torch.cat([table[place] for place in places], 1) for table in tables]).double().numpy()[:cases]


def _alone(name: str, part: nn.Module) -> bool:
    """Whether a module has no parts of its own; those that only make its weights are none."""
    return _WEIGHTS not in name.split(".") and not [child for child, _ in part.named_children() if child != _WEIGHTS]


def _alike(first: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and other.shape[1:] == first.shape[1:]


class _Ear:
    """Hears what every call of a module without parts gives, and keeps its extremes case by case.

    With `cases` 0 it only learns the shapes that one case alone has.
    """

    def __init__(self) -> None:
        self.cases = 0
        self.problem: str | None = None
        self._alone: dict[Place, tuple[int, ...]] = {}
        self._axes: dict[Place, int] = {}
        self._heard: dict[Place, torch.Tensor] = {}
        self._calls: dict[str, int] = {}

    @contextmanager
    def on(self, module: nn.Module) -> Iterator[None]:
        """Listens to a module until this ends."""
        hooks = []
        try:
            hooks.append(module.register_forward_pre_hook(lambda *_: self._calls.clear()))
            for name, part in module.named_modules():
                if _alone(name, part) and not isinstance(part, torch.jit.ScriptModule):
                    hooks.append(part.register_forward_hook(partial(self._hear, name)))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def taken(self) -> dict[Place, torch.Tensor]:
        """What was heard since this was asked last."""
        heard, self._heard = self._heard, {}
        return heard

    def _hear(self, name: str, part: nn.Module, given: Any, made: Any) -> None:
        number = self._calls[name] = self._calls.get(name, -1) + 1
        try:
            for where, tensor in outputs.flatten(made).tensors.items():
                if tensor.is_floating_point() and tensor.dim() >= 2 and tensor.numel():
                    self._note((name, number, where), tensor.detach())  # the model may ask for gradients
        except Exception as error:  # listening is no condition of the run
            self.problem = f"{name or 'the model'} cannot be listened to: {exception_text.describe(error)}"

    def _note(self, place: Place, tensor: torch.Tensor) -> None:
        if not self.cases:
            self._alone[place] = tuple(tensor.shape)
            return
        axis = self._axis(place, tuple(tensor.shape))
        if axis is not None:
            by_case = tensor.movedim(axis, 0).unflatten(0, (self.cases, -1))  # type: ignore[no-untyped-call]  # torch gives it no types
            rest = [dim for dim in range(1, by_case.dim()) if dim != 2]
            self._heard[place] = torch.cat((by_case.amax(rest).clamp(min=0), (-by_case.amin(rest)).clamp(min=0)), 1)

    def _axis(self, place: Place, shape: tuple[int, ...]) -> int | None:
        """The axis along which the cases lie; None where there is none."""
        alone = self._alone.get(place)
        if not self._alone:  # a batch of one size alone: there is nothing to compare with
            return 0 if shape[0] % self.cases == 0 else None
        if alone is None or len(alone) != len(shape):
            return None
        if self.cases == 1:
            return self._axes.get(place, 0)
        grown = [axis for axis, (one, many) in enumerate(zip(alone, shape, strict=True)) if one != many]
        if len(grown) != 1 or shape[grown[0]] != alone[grown[0]] * self.cases:
            return None
        self._axes[place] = grown[0]
        return grown[0]


def choose(extremes: Floats, count: int, first: Sequence[int]) -> list[int]:
    """At most `count` cases that together come nearest to all extremes: each time the one that adds most.

    Those of `first` are taken before any other.
    """
    largest = extremes.max(axis=0)
    parts = extremes[:, largest > 0] / largest[largest > 0]
    reached: Floats = np.zeros(parts.shape[1])
    chosen: list[int] = []
    left = set(first) or set(range(len(parts)))
    while len(chosen) < count and len(chosen) < len(parts):
        candidates = sorted(left)
        gains = np.maximum(parts[candidates], reached).sum(axis=1)
        chosen.append(candidates[int(gains.argmax())])
        reached = np.maximum(reached, parts[chosen[-1]])
        left = left - {chosen[-1]} or set(range(len(parts))) - set(chosen)
    return chosen
