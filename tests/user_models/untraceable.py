"""Models that torch.onnx accepts and TorchScript does not: tracing, saving or loading fails."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def scripting() -> bool:
    """Whether torch.jit traces the model, and not torch.onnx."""
    return bool(torch._C._is_tracing()) and not torch.onnx.is_in_onnx_export()


class Swish(torch.autograd.Function):
    """A custom autograd function."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor) -> Tensor:
        ctx.save_for_backward(vector)
        swished: Tensor = vector * torch.sigmoid(vector)
        return swished

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (vector,) = ctx.saved_tensors
        sigmoid = torch.sigmoid(vector)
        slope: Tensor = grads[0] * sigmoid * (1 + vector * (1 - sigmoid))
        return slope


class Naming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(16, 10)

    def forward(self, vector: Tensor) -> Tensor:
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class CustomFunction(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        return Swish.apply(self.name(vector))  # type: ignore[no-any-return, no-untyped-call]  # a Function has no types


class NestedCustomFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(16, 16), nn.Sequential(CustomFunction(), nn.ReLU()))

    def forward(self, vector: Tensor) -> Tensor:
        return self.parts(vector)  # type: ignore[no-any-return]  # a Module call


class RaisesInTrace(Naming):
    """Raises in torch.jit.trace, but not in an ONNX export."""

    def forward(self, vector: Tensor) -> Tensor:
        if scripting():
            raise NotImplementedError("no TorchScript, please.\nReally not.")
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class RaisesWithoutMessage(Naming):
    """Raises an exception without a message in torch.jit.trace."""

    def forward(self, vector: Tensor) -> Tensor:
        if scripting():
            raise KeyError
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


def invalid_class_name() -> nn.Module:
    """A class with a name that TorchScript saves but cannot load."""
    module: nn.Module = type("A net - of mine", (Naming,), {})()
    return module
