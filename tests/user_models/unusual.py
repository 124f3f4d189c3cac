"""Uncommon models that are supported."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tied(nn.Module):
    """Two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, vector: Tensor) -> Tensor:
        return self.second(self.first(vector).relu())  # type: ignore[no-any-return]  # a Module call


class Listing(nn.Module):
    """Returns a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 10), nn.Linear(16, 4)

    def forward(self, vector: Tensor) -> list[Tensor]:
        return [self.first(vector), self.second(vector)]


class Upcasting(nn.Module):
    """Requests FP32 in several ways, each of which fails in an FP64 run without conversion."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(16, 10)

    def forward(self, vector: Tensor) -> Tensor:
        seen = vector.float() + torch.zeros(16) + torch.linspace(0, 1, 16, dtype=torch.float32)
        return self.name(seen.to(torch.float32))  # type: ignore[no-any-return]  # a Module call


class Drawing(nn.Module):
    """Draws values that are not in its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(16, 10)
        self.register_buffer("shift", torch.randn(16), persistent=False)
        self.scale = torch.rand(16)

    def forward(self, vector: Tensor) -> Tensor:
        moved = vector * self.scale + self.get_buffer("shift")
        return self.name(moved)  # type: ignore[no-any-return]  # a Module call


class SequenceFirst(nn.Module):
    """Multiplies a sequence-first tensor by a matrix, as in torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 6) / 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return (tokens.transpose(0, 1) @ self.matrix).transpose(0, 1).relu()


class Lazy(nn.Module):
    """Infers its sizes from the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.LazyLinear(10)

    def forward(self, vector: Tensor) -> Tensor:
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call
