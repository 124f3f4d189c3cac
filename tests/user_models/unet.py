"""A small U-Net with upsampling by transposed convolution and by interpolation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def twice(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.LeakyReLU(0.1),
    )


class UNet(nn.Module):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = twice(3, 8), twice(8, 16), twice(16, 32)
        self.grow = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.up2, self.up1 = twice(32, 16), twice(24, 8)
        self.out = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(functional.max_pool2d(first, 2))
        x = self.bottom(functional.max_pool2d(second, 2))
        x = self.up2(torch.cat((second, self.grow(x)), 1))
        x = functional.interpolate(x, size=first.shape[2:], mode="bilinear", align_corners=False)
        return self.out(self.up1(torch.cat((first, x), 1))).softmax(dim=1)  # type: ignore[no-any-return]  # a Module call
