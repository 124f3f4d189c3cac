"""Measures how far each golden case drives each channel of each layer, and chooses the cases that cover most.

A fault in a channel that no golden case activates stays undetected, so cases are chosen by the extremes they reach.
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

_WEIGHTS = "parametrizations"  # torch's name of the submodule that computes a module's weights
_BATCH = 8  # cases in one batch, so that all intermediate values fit into memory

Floats = npt.NDArray[np.float64]
Site = tuple[str, int, str]  # name of a module, number of its call in a run, name of a tensor in its output


@dataclass(frozen=True)
class ChannelCoverage:
    """The answers of a model, and the extremes of each channel: cases × extremes, each from 0 upwards.

    There are no extremes where the modules of a model cannot be observed; `remark` says why.
    """

    answers: Arrays
    extremes: Floats
    remark: str | None = None


def measure(module: nn.Module, model: Model, inputs: Arrays) -> ChannelCoverage:
    """Runs the model on all cases and observes the outputs of its leaf modules.

    A channel is an index of the second axis of such an output. The batch axis is not assumed but found, by running one
    case alone and then several: an output whose size does not grow with them, such as a table of positions, is ignored.
    """
    session, cases = eager.make_session(module, model), len(next(iter(inputs.values())))
    size = model.inputs[0].shape[0]
    batch_size = size if isinstance(size, int) else _BATCH
    observer = _Observer()
    answers: list[dict[str, npt.NDArray[Any]]] = []
    tables: list[dict[Site, torch.Tensor]] = []
    with observer.on(module), without_attention_fastpath():
        if not isinstance(size, int):
            observer.cases = 0
            session(**{name: array[:1] for name, array in inputs.items()})
        for first in range(0, cases, batch_size):
            batch = {name: array[first : first + batch_size] for name, array in inputs.items()}
            observer.cases = batch_size if isinstance(size, int) else len(next(iter(batch.values())))
            answers.append(session(**batch))
            tables.append(observer.take())
    joined = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    extremes = _joined(tables, cases)
    if observer.problem is None and extremes.shape == (cases, 0) and any(True for _ in module.parameters()):
        observer.problem = "no module output has a batch dimension"
    if observer.problem is not None:
        remark = f"golden cases were not chosen by coverage: {observer.problem}"
        return ChannelCoverage(joined, np.zeros((cases, 0)), remark)
    return ChannelCoverage(joined, extremes)


def _joined(tables: Sequence[dict[Site, torch.Tensor]], cases: int) -> Floats:
    """Cases × extremes of all sites that were observed in every batch, in call order."""
    sites = [
        site for site, first in tables[0].items() if all(_same_columns(first, table.get(site)) for table in tables)
    ]
    if not sites:
        return np.zeros((cases, 0))
    return torch.cat([torch.cat([table[site] for site in sites], 1) for table in tables]).double().numpy()[:cases]


def _is_leaf(name: str, module: nn.Module) -> bool:
    """Whether a module has no submodules; those that only compute its weights do not count."""
    children = [child for child, _ in module.named_children() if child != _WEIGHTS]
    return _WEIGHTS not in name.split(".") and not children


def _same_columns(first: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and other.shape[1:] == first.shape[1:]


class _Observer:
    """Records the extremes of every leaf module's output, case by case.

    With `cases` 0 it records only the shapes that one case alone has.
    """

    def __init__(self) -> None:
        self.cases = 0
        self.problem: str | None = None
        self._single_shapes: dict[Site, tuple[int, ...]] = {}
        self._axes: dict[Site, int] = {}
        self._extremes: dict[Site, torch.Tensor] = {}
        self._calls: dict[str, int] = {}

    @contextmanager
    def on(self, module: nn.Module) -> Iterator[None]:
        """Observes a module until the context ends."""
        hooks = []
        try:
            hooks.append(module.register_forward_pre_hook(lambda *_: self._calls.clear()))
            for name, part in module.named_modules():
                if _is_leaf(name, part) and not isinstance(part, torch.jit.ScriptModule):
                    hooks.append(part.register_forward_hook(partial(self._observe, name)))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def take(self) -> dict[Site, torch.Tensor]:
        """The extremes recorded since the last call."""
        extremes, self._extremes = self._extremes, {}
        return extremes

    def _observe(self, name: str, part: nn.Module, arguments: Any, result: Any) -> None:
        number = self._calls[name] = self._calls.get(name, -1) + 1
        try:
            for key, tensor in outputs.flatten(result).tensors.items():
                if tensor.is_floating_point() and tensor.dim() >= 2 and tensor.numel():
                    self._record((name, number, key), tensor.detach())  # the model may require gradients
        except Exception as error:  # an observation that fails must not fail the run
            self.problem = f"{name or 'the model'} cannot be observed: {exception_text.describe(error)}"

    def _record(self, site: Site, tensor: torch.Tensor) -> None:
        if not self.cases:
            self._single_shapes[site] = tuple(tensor.shape)
            return
        axis = self._batch_axis(site, tuple(tensor.shape))
        if axis is not None:
            by_case = tensor.movedim(axis, 0).unflatten(0, (self.cases, -1))  # type: ignore[no-untyped-call]  # torch gives it no types
            rest = [dim for dim in range(1, by_case.dim()) if dim != 2]
            self._extremes[site] = torch.cat((by_case.amax(rest).clamp(min=0), (-by_case.amin(rest)).clamp(min=0)), 1)

    def _batch_axis(self, site: Site, shape: tuple[int, ...]) -> int | None:
        """The axis along which the cases lie; None where there is none."""
        single = self._single_shapes.get(site)
        if not self._single_shapes:  # the batch size is fixed: there is no other shape to compare with
            return 0 if shape[0] % self.cases == 0 else None
        if single is None or len(single) != len(shape):
            return None
        if self.cases == 1:
            return self._axes.get(site, 0)
        grown = [axis for axis, (one, several) in enumerate(zip(single, shape, strict=True)) if one != several]
        if len(grown) != 1 or shape[grown[0]] != single[grown[0]] * self.cases:
            return None
        self._axes[site] = grown[0]
        return grown[0]


def choose(extremes: Floats, count: int, first: Sequence[int]) -> list[int]:
    """At most `count` cases that together come nearest to all extremes, chosen greedily.

    The cases of `first` are chosen before any others.
    """
    largest = extremes.max(axis=0)
    shares = extremes[:, largest > 0] / largest[largest > 0]
    reached: Floats = np.zeros(shares.shape[1])
    chosen: list[int] = []
    left = set(first) or set(range(len(shares)))
    while len(chosen) < count and len(chosen) < len(shares):
        candidates = sorted(left)
        gains = np.maximum(shares[candidates], reached).sum(axis=1)
        chosen.append(candidates[int(gains.argmax())])
        reached = np.maximum(reached, shares[chosen[-1]])
        left = left - {chosen[-1]} or set(range(len(shares))) - set(chosen)
    return chosen
