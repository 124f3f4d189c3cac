"""Models that some stage does not support, and factories that return no model."""

from __future__ import annotations

import sys
import warnings

import torch
from torch import Tensor, nn


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(9, 10)

    def forward(self, vector: Tensor) -> Tensor:
        return self.name(torch.fft.rfft(vector).abs())  # type: ignore[no-any-return]  # a Module call


class Layer(nn.Module):
    """One linear layer, the base of the models below."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(16, 9)


class Determinant(Layer):
    def forward(self, vector: Tensor) -> Tensor:
        return torch.linalg.det(self.name(vector).unflatten(1, (1, 3, 3)))  # type: ignore[no-any-return]  # no types


class Branching(Layer):
    """Branches on a value, and always takes the same branch."""

    def forward(self, vector: Tensor) -> Tensor:
        if vector.abs().max() > 1000:
            return vector
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class Guarded(Layer):
    """Branches on a value only to raise an error."""

    def forward(self, vector: Tensor) -> Tensor:
        if vector.abs().max() > 1000:
            raise ValueError("too loud")
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class Dropping(Layer):
    """Applies dropout in evaluation mode too."""

    def forward(self, vector: Tensor) -> Tensor:
        return nn.functional.dropout(self.name(vector), 0.5)


class Naming(Layer):
    def forward(self, vector: Tensor) -> dict[str, Tensor]:
        return {"logits": self.name(vector)}


class Nested(Layer):
    def forward(self, vector: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.name(vector), (vector, vector)


class Brief(Layer):
    def forward(self, vector: Tensor) -> Tensor:
        return self.name(vector).bfloat16()  # type: ignore[no-any-return]  # a Module call


class Derivative(nn.Module):
    """Returns the gradient of its energy, a force."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Linear(16, 1)

    def forward(self, position: Tensor) -> Tensor:
        with torch.enable_grad():
            variable = position.detach().requires_grad_()
            return -torch.autograd.grad(self.energy(variable).tanh().sum(), variable)[0]


class Remembering(Layer):
    """Has a value in its state dict that is not a tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass

    def forward(self, vector: Tensor) -> Tensor:
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class NotANumber(Layer):
    def forward(self, vector: Tensor) -> Tensor:
        return self.name(vector).abs().neg().log()  # type: ignore[no-any-return]  # a Module call


def raises(width: int = 3) -> nn.Module:
    raise KeyError(f"no width {width}\nand more")


def exits() -> nn.Module:
    sys.exit("usage: train.py --epochs")


def text() -> str:
    return "a model"


def fp16_weights() -> nn.Module:
    return nn.Linear(16, 10).half()


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(16, 10)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.script(nn.Linear(16, 10))


def exported() -> nn.Module:
    return torch.export.export(nn.Linear(16, 10), (torch.ones(2, 16),)).module()
