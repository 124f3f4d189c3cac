"""A tiny model with the motifs of the zoo: grouped and depthwise convolutions, a shuffle, a concat, a pool."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.grouped = nn.Sequential(nn.Conv2d(8, 8, 1, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8))
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.classifier = nn.Linear(16, classes)

    def forward(self, image: Tensor) -> Tensor:
        stem = self.stem(image)
        grouped = self.grouped(stem)
        shuffled = grouped.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        pooled = self.pool(torch.cat([self.depthwise(shuffled), stem], 1))
        return self.classifier(pooled.mean((2, 3)))  # type: ignore[no-any-return]  # a Module call


def tiny(classes: int = 10) -> nn.Module:
    return Tiny(classes)
