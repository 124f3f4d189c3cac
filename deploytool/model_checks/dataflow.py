"""Follows the values of the inputs through one run of the model, to the lines where they leave torch for Python.

An exporter that traces knows such a line only as it went at export. A run is followed where torch hands its operators
over, so that whatever the model is written with is seen; sizes are no values, and weights are no inputs.
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
_ORDER = {"gt", "ge", "lt", "le"}  # comparisons that say how far an input is from taking the other way
# what has as many results as the values say
_RAGGED = {"nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive", "repeat_interleave"}
_TAKEN_WHOLE = {torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__}


@dataclass(frozen=True)
class PythonRead:
    """One value of the inputs that became a Python value at a line of the model.

    `value` stands for it: two that differ are two values. `crossing` are both sides of the comparison that made it,
    where it was one.
    """

    place: SourceLine
    what: BakedKind
    value: str
    crossing: tuple[float, float] | None = None


@dataclass(frozen=True)
class Flow:
    """What one run of the model showed: its reads in their order, and its outputs.

    `constants` are the lines that read something no input has a part in. The run is `ragged` if some tensor has as many
    elements as the values of the inputs say.
    """

    reads: tuple[PythonRead, ...]
    constants: frozenset[SourceLine]
    ragged: bool
    answers: tuple[torch.Tensor, ...]

    def at(self, place: SourceLine) -> tuple[str, ...]:
        """The values that were read at a line, in their order."""
        return tuple(read.value for read in self.reads if read.place == place)


def follow(module: nn.Module, given: Sequence[torch.Tensor], home: Path | None) -> Flow:
    """One run of the model on `given`; raises whatever it raises, or what torch does where it cannot be followed."""
    owned = tuple(tensor.clone() for tensor in given)
    operators = _Operators(owned, home)
    with torch.no_grad(), _Calls(operators), operators:
        made = module(*owned)
    answers = tuple(leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor))
    return Flow(tuple(operators.reads), frozenset(operators.constants), operators.ragged, answers)


class OperatorListener(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """Hears operators without what torch would import to keep it from being compiled, which takes it a second."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Operators(OperatorListener):
    """Marks the memory of all that is made of the inputs, and notes what is read of it."""

    def __init__(self, inputs: Iterable[torch.Tensor], home: Path | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self._home = home
        self._marked = {_memory(tensor) for tensor in inputs}
        self._compared: dict[StorageWeakRef, tuple[float, float]] = {}
        self._inside = False
        self.escaped = False  # a value went to Python, and may have come back in any tensor since
        self.ragged = False
        self.reads: list[PythonRead] = []
        self.constants: set[SourceLine] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if self._inside:
            return made
        given = _tensors((args, kwargs))
        marked = any(self.is_marked(tensor) for tensor in given)
        if func in (_ATEN._local_scalar_dense.default, _ATEN.equal.default):
            self.note(
                given[0], BakedKind.BRANCH if isinstance(made, bool) else BakedKind.VALUE, repr(made), marked=marked
            )
        elif marked:
            self._marked |= {_memory(tensor) for tensor in (*_tensors(made), *_changed(func, args, kwargs))}
            name = func.overloadpacket.__name__
            self.ragged |= name in _RAGGED or (name == "index" and any(t.dtype is torch.bool for t in given))
            if name in _ORDER and made.numel() == 1:
                self._inside = True
                self._compared[_memory(made)] = (_number(args[0]), _number(args[1]))
                self._inside = False
        return made

    def is_marked(self, tensor: torch.Tensor) -> bool:
        return _memory(tensor) in self._marked

    def note(self, tensor: torch.Tensor, what: BakedKind, value: str, *, marked: bool) -> None:
        """A tensor that became a Python value, at the line that runs now."""
        place = source_lines.current_line(self._home)
        if place is None:
            return
        if not marked and not self.escaped:
            self.constants.add(place)
            return
        self.escaped |= what is not BakedKind.BRANCH
        self.reads.append(PythonRead(place, what, value, self._compared.get(_memory(tensor))))


class _Calls(TorchFunctionMode):
    """Notes what leaves torch as a whole, which no operator shows."""

    def __init__(self, operators: _Operators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _TAKEN_WHOLE and args and isinstance(args[0], torch.Tensor):
            marked = self._operators.is_marked(args[0])
            self._operators.note(args[0], BakedKind.VALUE, _digest(made), marked=marked)
        return made


def _memory(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # the same


def _tensors(values: Any) -> list[torch.Tensor]:
    """The tensors among values that have memory of their own: a sparse one has none."""
    leaves = (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))
    return [leaf for leaf in leaves if leaf.layout is torch.strided]


def _changed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> list[torch.Tensor]:
    """The arguments that an operator writes into."""
    written = [
        args[number] if number < len(args) else (kwargs or {}).get(argument.name)
        for number, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return _tensors(written)


def _number(value: Any) -> float:
    return float(value.detach().double().reshape(-1)[0].item()) if isinstance(value, torch.Tensor) else float(value)


def _digest(value: Any) -> str:
    return hashlib.sha256(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()).hexdigest()
