"""A classifier of two images of different sizes, which it does not treat alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Stereo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.near = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.far = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU())
        self.classifier = nn.Linear(16, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        features = torch.cat([self.near(left).mean((2, 3)), self.far(right).amax((2, 3))], 1)
        return self.classifier(features)  # type: ignore[no-any-return]  # a Module call
