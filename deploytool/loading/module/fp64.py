"""Runs a model in FP64 even where its code requests FP32: tensors and dtypes are converted at each torch call.

The weights stay as they are. Each module gets its own in FP64 while it runs, so that the rest takes no memory in FP64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_NARROWER = {wide: narrow for narrow, wide in _WIDER.items()}
_LEGACY = {"torch.FloatTensor": "torch.DoubleTensor", "torch.cuda.FloatTensor": "torch.cuda.DoubleTensor"}
_DTYPE_OF = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]  # a getter of C
_FLOAT = torch.Tensor.float


WIDENS_ITSELF = "widens_itself"  # an attribute of a module: it converts each of its weights when it needs it
_HOLDERS = (nn.ParameterList, nn.ParameterDict)  # modules that only hold weights, for the module around them


@contextmanager
def run(module: nn.Module) -> Iterator[None]:
    """Inside the context, FP32 tensors and dtypes in torch calls become FP64, and so do weights while `module` runs."""
    default_dtype, weights = torch.get_default_dtype(), _Weights(module)
    torch.set_default_dtype(torch.float64)
    try:
        with _Fp64Mode():
            yield
    finally:
        torch.set_default_dtype(default_dtype)
        weights.release()


def is_running() -> bool:
    """Whether the caller is inside `run`."""
    return torch.get_default_dtype() == torch.float64


def to_fp64(value: torch.Tensor) -> torch.Tensor:
    """Converts an FP32 tensor to FP64, and complex64 to complex128; returns others unchanged."""
    return value.to(_WIDER[value.dtype]) if value.dtype in _WIDER else value


@dataclass(frozen=True)
class _Widened:
    """A weight that is FP64 for the moment, with its values before and what shows whether it was written into."""

    weight: torch.Tensor
    before: torch.Tensor
    address: int
    version: int

    def restore(self) -> None:
        """Gives the weight its values back, unless the model has written into it: then it stays FP64."""
        if (self.address, self.version) == (self.weight.data_ptr(), self.weight._version):
            self.weight.data = self.before


class _Weights:
    """Converts the weights of each module in a module to FP64 when it begins to run, and back when it ends."""

    def __init__(self, module: nn.Module) -> None:
        self._wide: dict[nn.Module, list[list[_Widened]]] = {}  # a module may run inside itself
        self._hooks: list[RemovableHandle] = []
        for part in module.modules():
            if not getattr(part, WIDENS_ITSELF, False) and next(_narrow_weights(part), None) is not None:
                # first, so that hooks of the model see what it sees in forward()
                self._hooks.append(part.register_forward_pre_hook(self._widen, prepend=True))
                self._hooks.append(part.register_forward_hook(self._restore, always_call=True))

    def release(self) -> None:
        """Removes the hooks; restores the weights of modules whose run was interrupted."""
        for hook in self._hooks:
            hook.remove()
        for part, runs in self._wide.items():
            for _ in tuple(runs):
                self._restore(part)

    def _widen(self, part: nn.Module, *_: Any) -> None:
        with torch._C.DisableTorchFunction():
            wide = []
            for weight in _narrow_weights(part):
                before, weight.data = weight.data, weight.data.double()
                wide.append(_Widened(weight, before, weight.data_ptr(), weight._version))
            self._wide.setdefault(part, []).append(wide)

    def _restore(self, part: nn.Module, *_: Any) -> None:
        with torch._C.DisableTorchFunction():
            for widened in self._wide[part].pop():
                widened.restore()


def _narrow_weights(part: nn.Module) -> Iterator[torch.Tensor]:
    """A module's own weights that `double()` would convert and that can be exchanged: dense, and with values."""
    held = [part, *(child for child in part.children() if isinstance(child, _HOLDERS))]
    for owner in held:
        for weight in (*owner.parameters(recurse=False), *owner.buffers(recurse=False)):
            usable = weight.layout is torch.strided and not is_lazy(weight) and not weight.is_inference()
            if usable and weight.is_floating_point() and weight.dtype != torch.float64:
                yield weight


class _Fp64Mode(TorchFunctionMode):
    """Converts FP32 tensors and dtypes in the arguments of each torch call to FP64.

    A tensor is converted once until the mode ends, so that values written into it are read again. `tensor.dtype`
    reports FP32 for FP64 tensors, so that branches on the dtype go as in FP32.
    """

    def __init__(self) -> None:
        super().__init__()
        # id of an FP32 tensor: itself, which keeps the id in use, and its FP64 copy
        self._converted: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func == _DTYPE_OF:
            dtype = func(*args)
            return _NARROWER.get(dtype, dtype)
        func = torch.Tensor.double if func is _FLOAT else func
        keywords = {name: self._convert(value) for name, value in (kwargs or {}).items()}
        return func(*(self._convert(value) for value in args), **keywords)

    def _convert(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._convert_tensor(value)
        if isinstance(value, torch.dtype):
            return _WIDER.get(value, value)
        if value is torch.FloatTensor:
            return torch.DoubleTensor
        if isinstance(value, str):
            return _LEGACY.get(value, value)
        if type(value) in (tuple, list):
            return type(value)(self._convert(item) for item in value)
        return value

    def _convert_tensor(self, value: torch.Tensor) -> torch.Tensor:
        if _DTYPE_OF(value) not in _WIDER:
            return value
        if id(value) not in self._converted:
            with torch._C.DisableTorchFunction():  # no call of the model, which other modes would see
                self._converted[id(value)] = (value, to_fp64(value))
        return self._converted[id(value)][1]
