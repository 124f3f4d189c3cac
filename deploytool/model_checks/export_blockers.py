"""Why no exporter takes a model, as far as the model itself and one run of it show: what stands in the way, and where.

What the exporters say of it is often about the step in which they stumbled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from deploytool.model_checks import source_lines
from deploytool.model_checks.dataflow import OperatorListener, follow

_KNOWN = ("aten", "prim", "prims", "torchvision", "quantized", "_quantized", "inductor", "profiler")
_AUTOCAST = ("cpu", "cuda")
_NARROW = (torch.bfloat16, torch.float16)
_QUANTIZED = (torch.quint8, torch.qint8, torch.qint32)
_OPERATOR = re.compile(r"aten[.:]+(\w+)")  # as both exporters write the operator that they have no form for


class BlockerKind(Enum):
    """What stands in the way; the value is the mend."""

    SCRIPTED = "return it unscripted"
    WEIGHTS = "give the model its weights in FP32: .float(); FP16 is made here"
    AUTOCAST = "take that out: FP16 is made here"
    NARROW = "compute in FP32 there: FP16 is made here"
    QUANTIZED = "give the model as it was before it was quantized"
    CUSTOM = "write it with torch's own operators"
    SPARSE = "make them dense: .to_dense()"
    BRANCH = "let it compute with tensors: torch.where, torch.clamp"
    RAGGED = "keep sizes that do not depend on values: mask with torch.where"
    COMPLEX = "compute with real and imaginary parts"
    OPERATOR = "write it with operators that ONNX has"
    UNKNOWN = "write that part of the model in another way"


@dataclass(frozen=True)
class Blocker:
    """One thing that stands in the way: what it is, in words that name it and its line."""

    cause: BlockerKind
    what: str

    @property
    def remedy(self) -> str:
        """What helps."""
        return self.cause.value


def find(module: nn.Module, given: Sequence[torch.Tensor], home: Path | None, said: Mapping[str, Exception]) -> Blocker:
    """What keeps every exporter from the model; `said` is what each of them raised. Raises nothing."""
    found = next(_in_module(module), None)
    if found is None:
        seen = _Traits(home)
        try:
            with torch.no_grad(), _Autocast(seen), seen:
                module(*(tensor.clone() for tensor in given))
        except Exception:  # the user's code and torch may raise anything: what was seen before counts
            pass
        found = next(
            (seen.found[cause] for cause in BlockerKind if cause in seen.found and cause is not BlockerKind.COMPLEX),
            None,
        )
        found = found or _data(module, given, home) or seen.found.get(BlockerKind.COMPLEX)
    return found or _operator(said) or Blocker(BlockerKind.UNKNOWN, "")


def _in_module(module: nn.Module) -> Iterator[Blocker]:
    """What the parts and the weights of a model show without running it."""
    for name, part in module.named_modules():
        called = name or "itself"
        if isinstance(part, torch.jit.ScriptModule):
            yield Blocker(
                BlockerKind.SCRIPTED, f"torch.onnx cannot export a model with a scripted part called {called}"
            )
        if "quantized" in type(part).__module__.split("."):
            yield Blocker(BlockerKind.QUANTIZED, f"the part {called} is quantized ({type(part).__name__})")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dtype in _NARROW:
            yield Blocker(BlockerKind.WEIGHTS, f"the weight {name} is in {_dtype(tensor.dtype)}")


class _Traits(OperatorListener):
    """Notes the first line of the model at which each obstacle shows."""

    def __init__(self, home: Path | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self._home = home
        self.autocast = False  # whether torch.autocast chose the type of what is computed now
        self.found: dict[BlockerKind, Blocker] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        for cause, what in _traits(func, tensors, autocast=self.autocast):
            if cause not in self.found:
                place = source_lines.current_line(self._home)
                where = f" at {place.file}:{place.line}" if place else ""
                self.found[cause] = Blocker(cause, f"the model {what}{where}")
        return made


class _Autocast(TorchFunctionMode):
    """Notes the first line that runs under torch.autocast, which no operator knows any more."""

    def __init__(self, traits: _Traits) -> None:
        super().__init__()
        self._traits = traits

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(torch.is_autocast_enabled(device) for device in _AUTOCAST):
            self._traits.autocast = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._traits.autocast = False


def _traits(func: Any, tensors: Sequence[torch.Tensor], *, autocast: bool) -> Iterator[tuple[BlockerKind, str]]:
    dtypes = {tensor.dtype for tensor in tensors}
    narrow = next((dtype for dtype in _NARROW if dtype in dtypes), None)
    if narrow is not None and autocast:
        yield BlockerKind.AUTOCAST, f"computes in {_dtype(narrow)} by torch.autocast"
    elif narrow is not None:
        yield BlockerKind.NARROW, f"computes in {_dtype(narrow)}"
    if dtypes & set(_QUANTIZED):
        yield BlockerKind.QUANTIZED, "computes with quantized numbers"
    if func.namespace not in _KNOWN:
        called = f"{func.namespace}::{func.overloadpacket.__name__}"
        yield BlockerKind.CUSTOM, f"calls an operator that is not torch's own, {called},"
    if any(tensor.layout is not torch.strided for tensor in tensors):
        yield BlockerKind.SPARSE, "uses sparse tensors"
    if any(dtype.is_complex for dtype in dtypes):
        yield BlockerKind.COMPLEX, f"computes with complex numbers ({func.overloadpacket.__name__})"


def _data(module: nn.Module, given: Sequence[torch.Tensor], home: Path | None) -> Blocker | None:
    """The first line that asks for a value of the inputs, or a size that follows from values."""
    try:
        flow = follow(module, given, home)
    except Exception:  # as above
        return None
    asking = [read.place for read in flow.reads if not read.place.guard]
    if asking:
        return Blocker(
            BlockerKind.BRANCH, f"the model asks for a value of its inputs at {asking[0].file}:{asking[0].line}"
        )
    what = "a tensor of the model has as many elements as the values of its inputs say"
    return Blocker(BlockerKind.RAGGED, what) if flow.ragged else None


def _operator(said: Mapping[str, Exception]) -> Blocker | None:
    """The operator that an exporter has no form for, as far as it names one."""
    for error in said.values():
        if named := _OPERATOR.search(str(error.__cause__ or error)):
            return Blocker(BlockerKind.OPERATOR, f"ONNX has no form of torch's {named.group(1)} here")
    return None


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
