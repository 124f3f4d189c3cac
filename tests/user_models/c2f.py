"""A network of C2f blocks as in YOLO v8: split, bottlenecks with shortcuts, concatenation of all parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.SiLU(inplace=True))


class C2f(nn.Module):
    def __init__(self, width: int, bottlenecks: int) -> None:
        super().__init__()
        half = width // 2
        self.first = unit(width, width, 1)
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(unit(half, half, 3), unit(half, half, 3)) for _ in range(bottlenecks)
        )
        self.last = unit(half * (2 + bottlenecks), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for bottleneck in self.bottlenecks:
            parts.append(parts[-1] + bottleneck(parts[-1]))
        return self.last(torch.cat(parts, 1))  # type: ignore[no-any-return]  # a Module call


def make(classes: int = 10, width: int = 16, bottlenecks: int = 2) -> nn.Module:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    return nn.Sequential(unit(3, width, 3, 2), C2f(width, bottlenecks), pool)
