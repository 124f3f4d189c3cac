"""A network with batch norm and dropout, whose statistics and random numbers a resumed training must restore."""

from __future__ import annotations

from torch import nn


def make(classes: int = 1000) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(32, classes),
    )
