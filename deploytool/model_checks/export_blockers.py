"""Diagnoses why no exporter accepts a model, from its modules, its weights and one run of it.

The exporters' own messages often name the step that failed instead of the cause.
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
from deploytool.spec import Stage

_STANDARD_NAMESPACES = ("aten", "prim", "prims", "torchvision", "quantized", "_quantized", "inductor", "profiler")
_AUTOCAST_DEVICES = ("cpu", "cuda")
_NARROW_DTYPES = (torch.bfloat16, torch.float16)
_QUANTIZED_DTYPES = (torch.quint8, torch.qint8, torch.qint32)
_OPERATOR = re.compile(r"aten[.:]+(\w+)")  # how both exporters name an unsupported operator


class BlockerKind(Enum):
    """What prevents the export; the value is the remedy."""

    SCRIPTED = "return the module unscripted"
    WEIGHTS = f"convert the weights to FP32 with .float(); the {Stage.FP16} stage makes FP16"
    AUTOCAST = f"remove torch.autocast; the {Stage.FP16} stage makes FP16"
    NARROW = f"compute in FP32 there; the {Stage.FP16} stage makes FP16"
    QUANTIZED = "export the model before quantization"
    CUSTOM = "replace it by torch's own operators"
    SPARSE = "make them dense: .to_dense()"
    BRANCH = "compute with tensors instead: torch.where, torch.clamp"
    DATA_DEPENDENT_SIZE = "keep sizes independent of values: mask with torch.where"
    COMPLEX = "compute with real and imaginary parts"
    OPERATOR = "replace it by operators that ONNX supports"
    UNKNOWN = "rewrite the part of the model that the message names"


@dataclass(frozen=True)
class Blocker:
    """One cause of a failed export; `what` names it and, where known, its line."""

    cause: BlockerKind
    what: str

    @property
    def remedy(self) -> str:
        """How to make the model exportable."""
        return self.cause.value


def find(
    module: nn.Module, inputs: Sequence[torch.Tensor], home: Path | None, errors: Mapping[str, Exception]
) -> Blocker:
    """The most likely cause why every exporter rejects the model; `errors` maps exporter to error. Raises nothing."""
    blocker = next(_static_blockers(module), None)
    if blocker is None:
        recorder = _BlockerRecorder(home)
        try:
            with torch.no_grad(), _AutocastRecorder(recorder), recorder:
                module(*(tensor.clone() for tensor in inputs))
        except Exception:  # user code and torch may raise anything; what was recorded before counts
            pass
        recorded = {cause: recorder.blockers[cause] for cause in BlockerKind if cause in recorder.blockers}
        unlikely = recorded.pop(BlockerKind.COMPLEX, None)  # last: some complex operators can be exported
        blocker = next(iter(recorded.values()), None) or _data_blocker(module, inputs, home) or unlikely
    return blocker or _operator_blocker(errors) or Blocker(BlockerKind.UNKNOWN, "")


def _static_blockers(module: nn.Module) -> Iterator[Blocker]:
    """Causes visible in the submodules and the weights, without running the model."""
    for name, part in module.named_modules():
        label = name or "itself"
        if isinstance(part, torch.jit.ScriptModule):
            yield Blocker(BlockerKind.SCRIPTED, f"torch.onnx cannot export the scripted submodule {label}")
        if "quantized" in type(part).__module__.split("."):
            yield Blocker(BlockerKind.QUANTIZED, f"the submodule {label} is quantized ({type(part).__name__})")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dtype in _NARROW_DTYPES:
            yield Blocker(BlockerKind.WEIGHTS, f"the weight {name} is in {_dtype_name(tensor.dtype)}")


class _BlockerRecorder(OperatorListener):
    """Records the first line of the model at which each kind of blocker occurs."""

    def __init__(self, home: Path | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self._home = home
        self.autocast = False  # whether torch.autocast is active for the current operator
        self.blockers: dict[BlockerKind, Blocker] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        for cause, what in _operator_traits(func, tensors, autocast=self.autocast):
            if cause not in self.blockers:
                line = source_lines.current_line(self._home)
                location = f" at {line.file}:{line.line}" if line else ""
                self.blockers[cause] = Blocker(cause, f"the model {what}{location}")
        return result


class _AutocastRecorder(TorchFunctionMode):
    """Tells the recorder whether torch.autocast is active, which is no longer visible at the dispatcher."""

    def __init__(self, recorder: _BlockerRecorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(torch.is_autocast_enabled(device) for device in _AUTOCAST_DEVICES):
            self._recorder.autocast = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._recorder.autocast = False


def _operator_traits(
    func: Any, tensors: Sequence[torch.Tensor], *, autocast: bool
) -> Iterator[tuple[BlockerKind, str]]:
    """The kinds of blockers that an operator with these results stands for, as predicates of "the model"."""
    dtypes = {tensor.dtype for tensor in tensors}
    narrow = next((dtype for dtype in _NARROW_DTYPES if dtype in dtypes), None)
    if narrow is not None and autocast:
        yield BlockerKind.AUTOCAST, f"computes in {_dtype_name(narrow)} under torch.autocast"
    elif narrow is not None:
        yield BlockerKind.NARROW, f"computes in {_dtype_name(narrow)}"
    if dtypes & set(_QUANTIZED_DTYPES):
        yield BlockerKind.QUANTIZED, "computes with quantized tensors"
    if func.namespace not in _STANDARD_NAMESPACES:
        yield BlockerKind.CUSTOM, f"calls the custom operator {func.namespace}::{func.overloadpacket.__name__}"
    if any(tensor.layout is not torch.strided for tensor in tensors):
        yield BlockerKind.SPARSE, "uses sparse tensors"
    if any(dtype.is_complex for dtype in dtypes):
        yield BlockerKind.COMPLEX, f"computes with complex numbers ({func.overloadpacket.__name__})"


def _data_blocker(module: nn.Module, inputs: Sequence[torch.Tensor], home: Path | None) -> Blocker | None:
    """The first line that reads an input-dependent value, or else a data-dependent size."""
    try:
        flow = follow(module, inputs, home)
    except Exception:  # as above
        return None
    lines = [read.line for read in flow.reads if not read.line.guard]
    if lines:
        what = f"the model reads an input-dependent value into Python at {lines[0].file}:{lines[0].line}"
        return Blocker(BlockerKind.BRANCH, what)
    what = "the size of a tensor in the model depends on input values"
    return Blocker(BlockerKind.DATA_DEPENDENT_SIZE, what) if flow.data_dependent_sizes else None


def _operator_blocker(errors: Mapping[str, Exception]) -> Blocker | None:
    """The unsupported operator that an exporter's error names, if any."""
    for error in errors.values():
        if match := _OPERATOR.search(str(error.__cause__ or error)):
            return Blocker(BlockerKind.OPERATOR, f"torch.onnx cannot convert the operator {match.group(1)} here")
    return None


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
