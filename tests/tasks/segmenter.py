"""A small network for segmentation in the shape of a U: half of the size on the way out, and bilinear upsampling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = (128, 160)  # height and width of the input
CLASSES = 4


def _block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _enlarged(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class Segmenter(nn.Module):
    """The logits (B, C, H, W) of an image (B, 3, H, W) with values from 0 to 1; H and W are multiples of 8."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encode_2 = _block(3, 8, stride=2)
        self.encode_4 = _block(8, 24, stride=2)
        self.encode_8 = nn.Sequential(
            _block(24, 40, stride=2), _block(40, 40, dilation=2), _block(40, 40, dilation=4), _block(40, 32)
        )
        self.decode_4 = _block(32 + 24, 16)
        self.decode_2 = _block(16 + 8, 8)
        self.classifier = nn.Conv2d(8, classes, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        half = self.encode_2(image)
        quarter = self.encode_4(half)
        eighth = self.encode_8(quarter)
        quarter = self.decode_4(torch.cat([_enlarged(eighth), quarter], 1))
        half = self.decode_2(torch.cat([_enlarged(quarter), half], 1))
        return {"logits": _enlarged(self.classifier(half))}


def segmenter(classes: int = CLASSES) -> nn.Module:
    """The segmenter for that many classes, the background among them."""
    return Segmenter(classes)
