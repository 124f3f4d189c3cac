"""A model of 151 MB with wide layers, or of any other size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAYERS, WIDTH = 9, 2048
BYTES = 4 * LAYERS * WIDTH**2


class Wide(nn.Module):
    """Residual layers of one width: each adds a linear layer of its normalised input."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head = nn.Linear(width, 16)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(torch.relu(x))
        return self.head(x)  # type: ignore[no-any-return]  # a Module call


def wide(layers: int = LAYERS, width: int = WIDTH) -> nn.Module:
    return Wide(layers, width)


def narrow() -> nn.Module:
    return wide(width=8)
