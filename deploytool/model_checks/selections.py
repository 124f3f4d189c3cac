"""Finds the selections of a model, such as topk, that rounding changes: its answers then come from other rows."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploytool.data.golden import Arrays
from deploytool.loading.graph.node import Node
from deploytool.model_checks import source_lines
from deploytool.model_checks.dataflow import OperatorListener
from deploytool.parity import detection_rows, metrics, noise
from deploytool.results.report import IMPLAUSIBLE
from deploytool.spec import Model

_SELECTING = ("topk", "sort", "argmax", "argmin", "nonzero", "max", "min")  # in aten


@dataclass(frozen=True)
class _Selection:
    """A call that selects: its place in the model, and the indices that it selected."""

    place: str
    indices: torch.Tensor


def find(module: nn.Module, model: Model, inputs: Arrays) -> tuple[str, ...]:
    """The places of the selections that make the answers noisy: `topk at net.py:12`, `the node top (TopK)`.

    Shown by experiment: the answers under random FP32 rounding are noisy, and are not if every selection is held at
    what it selected without rounding. Without such a proof, and where the model cannot be followed, there are none.
    """
    try:
        with _Selections(source_lines.source_folder(model.factory)) as exact:
            answers = noise.perturbed_runs(module, model)[0][0](inputs)
        for run in noise.random_fp32_runs(module, model):
            with _Selections() as free:
                moved = run(inputs)
            if _error(moved, answers, model) <= IMPLAUSIBLE or len(free.made) != len(exact.made):
                continue
            with _Selections(held=exact.made):
                held = run(inputs)
            if _error(held, answers, model) <= IMPLAUSIBLE:
                pairs = zip(exact.made, free.made, strict=True)
                changed = (one.place for one, other in pairs if not torch.equal(one.indices, other.indices))
                return tuple(dict.fromkeys(changed))
    except Exception:  # this probe is optional: user code and torch may raise anything while they are followed
        return ()
    return ()


def _error(got: Arrays, expected: Arrays, model: Model) -> float:
    """The largest relative error; the detections that the model selects are aligned before."""
    return metrics.compare(detection_rows.aligned_for(model, got, expected), expected).max_error


class _Selections(OperatorListener):
    """Records what every selection of a run selects, in order; with `held`, it selects that instead."""

    def __init__(self, home: Path | None = None, held: Sequence[_Selection] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.made: list[_Selection] = []
        self._home, self._held = home, held

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        indices = result[1] if isinstance(result, (tuple, list)) and len(result) == 2 else result
        if name not in _SELECTING or not isinstance(indices, torch.Tensor) or indices.dtype != torch.int64:
            return result
        if args[0].dtype == torch.int64:  # rounding does not change it
            return result
        number = len(self.made)
        self.made.append(_Selection(_place(name, self._home), indices.clone()))
        if number >= len(self._held):
            return result
        kept = self._held[number].indices
        if indices is result:
            return kept.clone()
        return _values(func, args, kwargs or {}, kept), kept.clone()


def _values(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], indices: torch.Tensor) -> torch.Tensor:
    """The values at the indices along the dimension of the call."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    dimension = given.get("dim", -1)
    if indices.dim() < args[0].dim():  # without keepdim
        return torch.take_along_dim(args[0], indices.unsqueeze(dimension), dimension).squeeze(dimension)
    return torch.take_along_dim(args[0], indices, dimension)


def _place(name: str, home: Path | None) -> str:
    """Which node or line of the model runs now."""
    frame = sys._getframe(1)
    while frame is not None:
        node = frame.f_locals.get("self")
        if isinstance(node, Node):
            return f"the node {node.op.label}"
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    line = source_lines.current_line(home)
    return f"{name} at {line.file}:{line.line}" if line else name
