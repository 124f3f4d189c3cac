"""A small Inception network: four parallel branches with different kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Branches(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, 8, 1)
        self.three = nn.Sequential(nn.Conv2d(inputs, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, (1, 3), padding=(0, 1)))
        self.five = nn.Sequential(nn.Conv2d(inputs, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 5, padding=2))
        self.pooled = nn.Conv2d(inputs, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        return torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1).relu()


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, stride=2)
        self.first, self.second = Branches(16), Branches(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.first(self.stem(x)), 3, 2, ceil_mode=True)
        x = self.second(x).mean(dim=(2, 3))
        return self.head(x)  # type: ignore[no-any-return]  # a Module call
