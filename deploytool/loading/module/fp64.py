"""Runs a model in FP64 even where its code requests FP32: tensors and dtypes are converted at each torch call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_NARROWER = {wide: narrow for narrow, wide in _WIDER.items()}
_LEGACY = {"torch.FloatTensor": "torch.DoubleTensor", "torch.cuda.FloatTensor": "torch.cuda.DoubleTensor"}
_DTYPE_OF = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]  # a getter of C
_FLOAT = torch.Tensor.float


@contextmanager
def run() -> Iterator[None]:
    """Inside the context, FP32 tensors and dtypes in torch calls become FP64."""
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Fp64Mode():
            yield
    finally:
        torch.set_default_dtype(default_dtype)


def to_fp64(value: torch.Tensor) -> torch.Tensor:
    """Converts an FP32 tensor to FP64, and complex64 to complex128; returns others unchanged."""
    return value.to(_WIDER[value.dtype]) if value.dtype in _WIDER else value


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
            self._converted[id(value)] = (value, to_fp64(value))
        return self._converted[id(value)][1]
