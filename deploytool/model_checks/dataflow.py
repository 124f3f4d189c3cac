"""Follows input values through one run of the model and records where they become Python values.

A tracing exporter bakes in what such a line did at export. Operators are observed at the dispatcher, so the way the
model is written does not matter. Sizes do not count as values, and weights do not count as inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deploytool.model_checks import source_lines
from deploytool.model_checks.source_lines import SourceLine
from deploytool.results.baked_values import BakedKind

_ATEN = torch.ops.aten
_ORDER = {"gt", "ge", "lt", "le"}  # comparisons whose operands say how far an input is from the other branch
# operators whose output size depends on values
_DATA_DEPENDENT = {"nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive", "repeat_interleave"}
_TO_PYTHON = {torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__}


@dataclass(frozen=True)
class PythonRead:
    """An input-dependent tensor that became a Python value at a line of the model.

    value: identifies the Python value: equal strings mean equal values. operands: both sides of the comparison that
    produced the tensor, if one did.
    """

    line: SourceLine
    kind: BakedKind
    value: str
    operands: tuple[float, float] | None = None


@dataclass(frozen=True)
class Flow:
    """The data flow of one run of the model: its reads in order, and its outputs.

    constant_lines: lines that read a tensor which no input affects. data_dependent_sizes: whether the number of
    elements of some tensor depends on input values.
    """

    reads: tuple[PythonRead, ...]
    constant_lines: frozenset[SourceLine]
    data_dependent_sizes: bool
    outputs: tuple[torch.Tensor, ...]

    def values_at(self, line: SourceLine) -> tuple[str, ...]:
        """The values read at a line, in order."""
        return tuple(read.value for read in self.reads if read.line == line)


def follow(module: nn.Module, inputs: Sequence[torch.Tensor], home: Path | None) -> Flow:
    """Runs the model on copies of `inputs` and records its data flow.

    Raises whatever the model raises, or torch where the run cannot be followed.
    """
    copies = tuple(tensor.clone() for tensor in inputs)
    operators = _OperatorRecorder(copies, home)
    with torch.no_grad(), _CallRecorder(operators), operators:
        result = module(*copies)
    outputs = tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
    return Flow(tuple(operators.reads), frozenset(operators.constant_lines), operators.data_dependent_sizes, outputs)


class OperatorListener(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """A dispatch mode without the check for torch.compile, whose import takes a second."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _OperatorRecorder(OperatorListener):
    """Marks the storages of all tensors computed from the inputs, and records where their values are read."""

    def __init__(self, inputs: Iterable[torch.Tensor], home: Path | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self._home = home
        self._marked = {_storage(tensor) for tensor in inputs}
        self._operands: dict[StorageWeakRef, tuple[float, float]] = {}
        self._inside = False
        self.escaped = False  # a value went to Python: any later tensor may have been made from it
        self.data_dependent_sizes = False
        self.reads: list[PythonRead] = []
        self.constant_lines: set[SourceLine] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._inside:
            return result
        inputs = _tensors((args, kwargs))
        marked = any(self.is_marked(tensor) for tensor in inputs)
        if func in (_ATEN._local_scalar_dense.default, _ATEN.equal.default):
            kind = BakedKind.BRANCH if isinstance(result, bool) else BakedKind.VALUE
            self.record(inputs[0], kind, repr(result), marked=marked)
        elif marked:
            self._marked |= {_storage(tensor) for tensor in (*_tensors(result), *_written(func, args, kwargs))}
            name = func.overloadpacket.__name__
            by_mask = name == "index" and any(tensor.dtype is torch.bool for tensor in inputs)
            self.data_dependent_sizes |= name in _DATA_DEPENDENT or by_mask
            if name in _ORDER and result.numel() == 1:
                self._inside = True
                self._operands[_storage(result)] = (_first_element(args[0]), _first_element(args[1]))
                self._inside = False
        return result

    def is_marked(self, tensor: torch.Tensor) -> bool:
        return _storage(tensor) in self._marked

    def record(self, tensor: torch.Tensor, kind: BakedKind, value: str, *, marked: bool) -> None:
        """Records that a tensor became a Python value at the line that runs now."""
        line = source_lines.current_line(self._home)
        if line is None:
            return
        if not marked and not self.escaped:
            self.constant_lines.add(line)
            return
        self.escaped |= kind is not BakedKind.BRANCH
        self.reads.append(PythonRead(line, kind, value, self._operands.get(_storage(tensor))))


class _CallRecorder(TorchFunctionMode):
    """Records conversions of whole tensors to Python or numpy, which dispatch no operator."""

    def __init__(self, operators: _OperatorRecorder) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _TO_PYTHON and args and isinstance(args[0], torch.Tensor):
            marked = self._operators.is_marked(args[0])
            self._operators.record(args[0], BakedKind.VALUE, _digest(result), marked=marked)
        return result


def _storage(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # the same


def _tensors(values: Any) -> list[torch.Tensor]:
    """The strided tensors in nested values; sparse tensors have no storage of their own."""
    leaves = (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))
    return [leaf for leaf in leaves if leaf.layout is torch.strided]


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> list[torch.Tensor]:
    """The arguments that an operator writes into."""
    written = [
        args[number] if number < len(args) else (kwargs or {}).get(argument.name)
        for number, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return _tensors(written)


def _first_element(value: Any) -> float:
    return float(value.detach().double().reshape(-1)[0].item()) if isinstance(value, torch.Tensor) else float(value)


def _digest(value: Any) -> str:
    return hashlib.sha256(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()).hexdigest()
