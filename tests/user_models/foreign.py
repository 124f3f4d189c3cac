"""Models that some tool of the road does not take, and things that are no models at all."""

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


class Having(nn.Module):
    """One layer, for the models below."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(16, 9)


class Determinant(Having):
    def forward(self, vector: Tensor) -> Tensor:
        return torch.linalg.det(self.name(vector).unflatten(1, (1, 3, 3)))  # type: ignore[no-any-return]  # no types


class Asking(Having):
    """Asks for a value before it goes on, and always goes the same way."""

    def forward(self, vector: Tensor) -> Tensor:
        if vector.abs().max() > 1000:
            return vector
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class Guarding(Having):
    """Asks for a value only to refuse it."""

    def forward(self, vector: Tensor) -> Tensor:
        if vector.abs().max() > 1000:
            raise ValueError("too loud")
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class Dropping(Having):
    """Forgets that dropout is for training."""

    def forward(self, vector: Tensor) -> Tensor:
        return nn.functional.dropout(self.name(vector), 0.5)


class Naming(Having):
    def forward(self, vector: Tensor) -> dict[str, Tensor]:
        return {"logits": self.name(vector)}


class Nested(Having):
    def forward(self, vector: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.name(vector), (vector, vector)


class Brief(Having):
    def forward(self, vector: Tensor) -> Tensor:
        return self.name(vector).bfloat16()  # type: ignore[no-any-return]  # a Module call


class Derivative(nn.Module):
    """A force: the derivative of what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Linear(16, 1)

    def forward(self, place: Tensor) -> Tensor:
        with torch.enable_grad():
            there = place.detach().requires_grad_()
            return -torch.autograd.grad(self.energy(there).tanh().sum(), there)[0]


class Remembering(Having):
    """Keeps more than tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass

    def forward(self, vector: Tensor) -> Tensor:
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class NotANumber(Having):
    def forward(self, vector: Tensor) -> Tensor:
        return self.name(vector).abs().neg().log()  # type: ignore[no-any-return]  # a Module call


def raising(width: int = 3) -> nn.Module:
    raise KeyError(f"no width {width}\nand more")


def leaving() -> nn.Module:
    sys.exit("usage: train.py --epochs")


def text() -> str:
    return "a model"


def halved() -> nn.Module:
    return nn.Linear(16, 10).half()


def hollow() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(16, 10)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.script(nn.Linear(16, 10))
