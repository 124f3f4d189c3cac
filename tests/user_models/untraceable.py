"""Models that torch.onnx takes and TorchScript does not: they cannot be traced, saved, or read again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def scripting() -> bool:
    """Whether TorchScript traces the model, and not torch.onnx with its help."""
    return bool(torch._C._is_tracing()) and not torch.onnx.is_in_onnx_export()


class Swish(torch.autograd.Function):
    """Saves memory in training."""

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


class OfOnesOwn(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        return Swish.apply(self.name(vector))  # type: ignore[no-any-return, no-untyped-call]  # a Function has no types


class InAPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(16, 16), nn.Sequential(OfOnesOwn(), nn.ReLU()))

    def forward(self, vector: Tensor) -> Tensor:
        return self.parts(vector)  # type: ignore[no-any-return]  # a Module call


class Shy(Naming):
    """Does not let itself be traced unless ONNX asks."""

    def forward(self, vector: Tensor) -> Tensor:
        if scripting():
            raise NotImplementedError("no TorchScript, please.\nReally not.")
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class Silent(Naming):
    """Raises without a word where it is traced."""

    def forward(self, vector: Tensor) -> Tensor:
        if scripting():
            raise KeyError
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


def oddly_named() -> nn.Module:
    """Its class has a name that TorchScript writes and cannot read."""
    made: nn.Module = type("A net - of mine", (Naming,), {})()
    return made
