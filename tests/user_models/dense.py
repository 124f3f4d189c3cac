"""A small DenseNet: each layer reads all previous outputs; norm and activation precede the convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DenseBlock(nn.Module):
    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        sizes = [inputs + growth * number for number in range(layers)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(size), nn.ReLU(), nn.Conv2d(size, growth, 3, padding=1, bias=False))
            for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat((x, layer(x)), dim=1)
        return x


class DenseNet(nn.Module):
    def __init__(self, growth: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.first = DenseBlock(16, growth, 3)
        self.between = nn.Sequential(nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1), nn.AvgPool2d(2))
        self.second = DenseBlock(20, growth, 3)
        self.norm = nn.BatchNorm2d(44)
        self.classifier = nn.Linear(44, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.between(self.first(self.stem(x))))
        x = torch.nn.functional.adaptive_avg_pool2d(self.norm(x).relu(), (1, 1))
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]  # a Module call
