"""Models with weights in FP64, as scientific code has them."""

import torch
from torch import nn


class Layers(nn.Module):
    """Two layers in FP64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return answer


class Fixed(Layers):
    """The same, which converts its input to FP64 itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.double())


def by_default() -> nn.Module:
    """A model of code that makes FP64 torch's default type."""
    torch.set_default_dtype(torch.float64)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
