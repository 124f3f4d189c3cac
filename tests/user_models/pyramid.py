"""A feature pyramid: two upsamplings that share the constant of their scale, and two cumulative sums of one tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pyramid(nn.Module):
    def __init__(self, mode: str = "nearest") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.ModuleList([nn.Conv2d(inputs, 8, 3, 2, 1) for inputs in (3, 8, 8)])
        self.up = nn.ModuleList([nn.Upsample(scale_factor=2, mode=mode) for _ in range(2)])
        self.out = nn.Conv2d(26, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.down[0](image).relu()
        middle = self.down[1](fine).relu()
        coarse = self.up[0](self.down[2](middle).relu())
        ones = torch.ones_like(fine[:, :1])
        positions = [ones.cumsum(2) / 16, ones.cumsum(3) / 16]
        merged = torch.cat([fine, self.up[1](torch.cat([middle, coarse], 1)), *positions], 1)
        return self.out(merged)  # type: ignore[no-any-return]  # a Module call


def bilinear() -> nn.Module:
    return Pyramid("bilinear")
