"""Models that request FP32 in ways that `.double()` does not change; `truth` computes their outputs in FP64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SHIFT = torch.linspace(0, 1, 16)


class Base(nn.Module):
    """The base of the models below, all of which compute (vector + shift) @ weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 64).reshape(16, 4))


class Attribute(Base):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.linspace(0, 1, 16)

    def forward(self, vector: Tensor) -> Any:
        return (vector + self.shift) @ self.weight


class Kernel(Base):
    """Has attributes in a call of `linear`, which requires equal dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.shift = torch.eye(16), torch.linspace(0, 1, 16)

    def forward(self, vector: Tensor) -> Any:
        return functional.linear(vector, self.eye, self.shift) @ self.weight


class Lists(Base):
    def __init__(self) -> None:
        super().__init__()
        self.parts, self.named = [torch.eye(16)], {"shift": torch.linspace(0, 1, 16)}

    def forward(self, vector: Tensor) -> Any:
        return torch.addmm(self.named["shift"], vector, self.parts[0]) @ self.weight


class Global(Base):
    def forward(self, vector: Tensor) -> Any:
        return torch.stack([vector, SHIFT.expand_as(vector)]).sum(0) @ self.weight


class Closure(Base):
    def __init__(self) -> None:
        super().__init__()
        shift = torch.linspace(0, 1, 16)
        self.shifted = lambda vector: torch.cat([vector, shift.expand_as(vector)], 1)

    def forward(self, vector: Tensor) -> Any:
        both: Tensor = self.shifted(vector)  # type: ignore[no-untyped-call]  # a lambda
        return (both[:, :16] + both[:, 16:]) @ self.weight


class Casting(Base):
    def forward(self, vector: Tensor) -> Any:
        shift = torch.linspace(0, 1, 16, dtype=torch.float32).to(vector.dtype)
        seen = vector.float().to(torch.float32).type(torch.FloatTensor)  # type: ignore[call-overload]  # as old code has it
        return (seen + shift.type_as(seen)).type("torch.FloatTensor") @ self.weight


class Insisting(Base):
    def forward(self, vector: Tensor) -> Any:
        assert vector.dtype == torch.float32, "FP32 alone"
        return (vector + torch.linspace(0, 1, 16, dtype=vector.dtype)) @ self.weight


class FromNumpy(Base):
    def forward(self, vector: Tensor) -> Any:
        shift = torch.from_numpy(SHIFT.numpy().copy())
        return torch.einsum("bi,io->bo", vector + shift, self.weight)


class Written(Base):
    """Writes into an attribute and reads it again."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.zeros(16)

    def forward(self, vector: Tensor) -> Any:
        self.shift.zero_()
        self.shift.add_(torch.linspace(0, 1, 16))
        return (vector + self.shift) @ self.weight


@dataclass
class Settings:
    shift: Tensor


class InAnObject(Base):
    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings(torch.linspace(0, 1, 16))

    def forward(self, vector: Tensor) -> Any:
        return torch.where(vector > -1e9, vector + self.settings.shift, vector) @ self.weight


class ByDevice(nn.Module):
    """Has no parameters; creates tensors on the device of the input."""

    def forward(self, vector: Tensor) -> Any:
        weight = torch.linspace(-1, 1, 64, device=vector.device).reshape(16, 4)
        return (vector + torch.linspace(0, 1, 16, device=vector.device)) @ weight


class FourBytes(Base):
    """Checks the element size, which the FP64 mode cannot fake."""

    def forward(self, vector: Tensor) -> Any:
        assert vector.element_size() == 4, "four bytes alone"
        return (vector + torch.linspace(0, 1, 16)) @ self.weight


def truth(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The outputs of all models above, in FP64."""
    weight = torch.linspace(-1, 1, 64).reshape(16, 4).double().numpy()
    computed: np.ndarray[Any, Any] = (vector.astype(np.float64) + np.linspace(0, 1, 16)) @ weight
    return computed
