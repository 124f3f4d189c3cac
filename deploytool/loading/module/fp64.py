"""The model in FP64 although its own code speaks of FP32: what it makes, casts and keeps is widened on the fly."""

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
    """Whatever the model's own code makes, keeps or asks for in FP32, it gets in FP64."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubled():
            yield
    finally:
        torch.set_default_dtype(usual)


def to_fp64(value: torch.Tensor) -> torch.Tensor:
    """An FP32 tensor in FP64; others as they are."""
    return value.to(_WIDER[value.dtype]) if value.dtype in _WIDER else value


class _Doubled(TorchFunctionMode):
    """Turns every FP32 in a call of torch into FP64: tensors, types, and what a tensor says of its own type.

    A tensor that was widened once stays the same one until the mode ends, so that what is written into it is there
    when it is read again. The model is told FP32 where it asks: its code takes the way that it takes in FP32.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the narrow one is held: its id stays its own

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func == _DTYPE_OF:
            dtype = func(*args)
            return _NARROWER.get(dtype, dtype)
        func = torch.Tensor.double if func is _FLOAT else func
        named = {name: self._wide(value) for name, value in (kwargs or {}).items()}
        return func(*(self._wide(value) for value in args), **named)

    def _wide(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, torch.dtype):
            return _WIDER.get(value, value)
        if value is torch.FloatTensor:
            return torch.DoubleTensor
        if isinstance(value, str):
            return _LEGACY.get(value, value)
        if type(value) in (tuple, list):
            return type(value)(self._wide(each) for each in value)
        return value

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        if _DTYPE_OF(value) not in _WIDER:
            return value
        if id(value) not in self._known:
            self._known[id(value)] = (value, to_fp64(value))
        return self._known[id(value)][1]
