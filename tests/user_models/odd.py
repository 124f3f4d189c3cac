"""Models with habits that are uncommon and allowed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tied(nn.Module):
    """Two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(16, 16), nn.Linear(16, 16)
        self.back.weight = self.there.weight

    def forward(self, vector: Tensor) -> Tensor:
        return self.back(self.there(vector).relu())  # type: ignore[no-any-return]  # a Module call


class Listing(nn.Module):
    """Gives a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 10), nn.Linear(16, 4)

    def forward(self, vector: Tensor) -> list[Tensor]:
        return [self.first(vector), self.second(vector)]


class Upcasting(nn.Module):
    """Insists on FP32 in several ways, none of which FP64 would survive by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(16, 10)

    def forward(self, vector: Tensor) -> Tensor:
        seen = vector.float() + torch.zeros(16) + torch.linspace(0, 1, 16, dtype=torch.float32)
        return self.name(seen.to(torch.float32))  # type: ignore[no-any-return]  # a Module call


class Drawing(nn.Module):
    """Draws numbers that its state dict does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(16, 10)
        self.register_buffer("shift", torch.randn(16), persistent=False)
        self.scale = torch.rand(16)

    def forward(self, vector: Tensor) -> Tensor:
        moved = vector * self.scale + self.get_buffer("shift")
        return self.name(moved)  # type: ignore[no-any-return]  # a Module call


class SequenceFirst(nn.Module):
    """A matrix by which a sequence is multiplied that stands before its batch, as in torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 6) / 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return (tokens.transpose(0, 1) @ self.matrix).transpose(0, 1).relu()


class Lazy(nn.Module):
    """Learns its sizes from the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.LazyLinear(10)

    def forward(self, vector: Tensor) -> Tensor:
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call
