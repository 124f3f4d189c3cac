"""The normalisation of pixels, written out for tests, and small models that take images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Pixels = npt.NDArray[np.uint8]
Images = npt.NDArray[np.float32]


def by_channel(
    pixels: Pixels, mean: Sequence[float], std: Sequence[float], scale: float, *, bgr: bool = False
) -> Images:
    """Images in NCHW for pixels in NHWC: each channel by itself, in FP32."""
    planes = [pixels[..., channel] for channel in range(pixels.shape[-1])]
    if bgr:
        planes.reverse()
    means, stds = (list(numbers) * (len(planes) if len(numbers) == 1 else 1) for numbers in (mean, std))
    made = []
    for plane, centre, spread in zip(planes, means, stds, strict=True):
        scaled = np.multiply(plane, np.float32(scale), dtype=np.float32)
        made.append((scaled - np.float32(centre)) / np.float32(spread))
    return np.stack(made, axis=1).astype(np.float32)


class Net(nn.Module):
    """Two padded convolutions and a classifier; `last` is for images with the channels last."""

    def __init__(self, channels: int = 3, *, last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = last
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> Any:
        image = image.permute(0, 3, 1, 2) if self.last else image
        return self.head(self.body(image).mean((2, 3)))


class Fused(nn.Module):
    """A net with a vector before its image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, vector: torch.Tensor, image: torch.Tensor) -> Any:
        return self.net(image) + vector.sum(1, keepdim=True)


class Hooked(Net):
    """A net with a hook that darkens its images."""

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0.5,))


class Counting(Net):
    """A net that counts its calls in itself."""

    calls = 0

    def forward(self, image: torch.Tensor) -> Any:
        self.calls += 1
        return super().forward(image)


ONE = Net()


def first() -> Net:
    return Net()


def last() -> Net:
    return Net(last=True)


def grey() -> Net:
    return Net(1)


def shared() -> Net:
    return ONE
