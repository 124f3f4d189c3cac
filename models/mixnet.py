"""MixNet (arXiv 1907.09595): depthwise convolutions with several kernel sizes, each on a part of the channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import PADDINGS, convolution, require_choice, require_positive, round_to_multiple, set_first_weights

HEAD = 1536


@dataclass(frozen=True)
class Row:
    """`repeats` equal blocks; squeeze 0 means no squeeze-and-excite, and ReLU instead of SiLU."""

    repeats: int
    kernel: int  # the largest; 7 means 3, 5 and 7
    expand: int  # parts of the first 1×1 convolution
    project: int  # parts of the last 1×1 convolution
    stride: int
    ratio: int  # channels inside the block / input channels
    channels: int
    squeeze: float


@dataclass(frozen=True)
class Plan:
    """A network of five stages; the first block of each changes the number of channels."""

    stem: int
    dropout: float
    stages: tuple[tuple[Row, Row], ...]


SMALL = Plan(
    stem=16,
    dropout=0.2,
    stages=(
        (Row(1, 3, 2, 2, 2, 6, 24, 0.0), Row(1, 3, 2, 2, 1, 3, 24, 0.0)),
        (Row(1, 7, 1, 1, 2, 6, 40, 0.5), Row(3, 5, 2, 2, 1, 6, 40, 0.5)),
        (Row(1, 7, 1, 2, 2, 6, 80, 0.25), Row(2, 5, 1, 2, 1, 6, 80, 0.25)),
        (Row(1, 7, 2, 2, 1, 6, 120, 0.5), Row(2, 9, 2, 2, 1, 3, 120, 0.5)),
        (Row(1, 11, 1, 1, 2, 6, 200, 0.5), Row(2, 9, 1, 2, 1, 6, 200, 0.5)),
    ),
)
MEDIUM = Plan(
    stem=24,
    dropout=0.25,
    stages=(
        (Row(1, 7, 2, 2, 2, 6, 32, 0.0), Row(1, 3, 2, 2, 1, 3, 32, 0.0)),
        (Row(1, 9, 1, 1, 2, 6, 40, 0.5), Row(3, 5, 2, 2, 1, 6, 40, 0.5)),
        (Row(1, 7, 1, 1, 2, 6, 80, 0.25), Row(3, 9, 2, 2, 1, 6, 80, 0.25)),
        (Row(1, 3, 1, 1, 1, 6, 120, 0.5), Row(3, 9, 2, 2, 1, 3, 120, 0.5)),
        (Row(1, 9, 1, 1, 2, 6, 200, 0.5), Row(3, 9, 1, 2, 1, 6, 200, 0.5)),
    ),
)
VARIANTS = {"s": (SMALL, 1.0, 1.0), "m": (MEDIUM, 1.0, 1.0), "l": (MEDIUM, 1.3, 1.0), "xl": (MEDIUM, 1.6, 1.2)}


def shares(channels: int, parts: int) -> list[int]:
    """Splits `channels` into equal parts; the first part includes the remainder."""
    size = channels // parts
    return [channels - size * (parts - 1)] + [size] * (parts - 1)


class MixedConv2d(nn.ModuleList):
    """Several convolutions, each on its part of the channels."""

    def __init__(
        self, inputs: int, outputs: int, kernels: list[int], stride: int, depthwise: bool, padding: str
    ) -> None:
        super().__init__()
        self.shares = shares(inputs, len(kernels))
        for part, output, kernel in zip(self.shares, shares(outputs, len(kernels)), kernels, strict=True):
            self.append(convolution(part, output, kernel, stride, part if depthwise else 1, padding))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.shares, dim=1)
        return torch.cat([conv(part) for conv, part in zip(self, parts, strict=True)], dim=1)


def mixed(
    inputs: int, outputs: int, kernels: list[int], stride: int = 1, depthwise: bool = False, padding: str = "symmetric"
) -> nn.Module:
    """A mixed convolution, or an ordinary one for a single kernel size."""
    if len(kernels) > 1:
        return MixedConv2d(inputs, outputs, kernels, stride, depthwise, padding)
    return convolution(inputs, outputs, kernels[0], stride, inputs if depthwise else 1, padding)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excite: scales each channel by a gate computed from the means of all channels."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.act = nn.SiLU()
        self.conv_expand = nn.Conv2d(reduced, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.gate(self.conv_expand(self.act(self.conv_reduce(self.pool(x)))))
        return x * weight


class FirstBlock(nn.Module):
    """Depthwise 3×3, then 1×1, with a residual connection."""

    def __init__(self, channels: int, bn_eps: float) -> None:
        super().__init__()
        self.conv_dw = convolution(channels, channels, 3, groups=channels)
        self.bn1 = nn.BatchNorm2d(channels, eps=bn_eps)
        self.act = nn.ReLU()
        self.conv_pw = convolution(channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels, eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(x)))))
        return y + x


class Block(nn.Module):
    """1×1 expansion, mixed depthwise, squeeze-and-excite, 1×1 projection; residual if the shape is unchanged."""

    def __init__(self, inputs: int, outputs: int, row: Row, padding: str, bn_eps: float) -> None:
        super().__init__()
        inside = inputs * row.ratio
        kernels = list(range(3, row.kernel + 1, 2))
        self.conv_pw = mixed(inputs, inside, [1] * row.expand)
        self.bn1 = nn.BatchNorm2d(inside, eps=bn_eps)
        self.act1 = nn.SiLU() if row.squeeze else nn.ReLU()
        self.conv_dw = mixed(inside, inside, kernels, row.stride, depthwise=True, padding=padding)
        self.bn2 = nn.BatchNorm2d(inside, eps=bn_eps)
        self.act2 = nn.SiLU() if row.squeeze else nn.ReLU()
        self.se = SqueezeExcite(inside, int(inputs * row.squeeze)) if row.squeeze else nn.Identity()
        self.conv_pwl = mixed(inside, outputs, [1] * row.project)
        self.bn3 = nn.BatchNorm2d(outputs, eps=bn_eps)
        self.adds = row.stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act1(self.bn1(self.conv_pw(x)))
        y = self.se(self.act2(self.bn2(self.conv_dw(y))))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.adds else y


class MixNet(nn.Module):
    """A stem, the stages of a plan, a wide 1×1 head, global average pooling and a classifier."""

    def __init__(self, plan: Plan, width: float, depth: float, classes: int, padding: str, bn_eps: float) -> None:
        super().__init__()
        channels = round_to_multiple(plan.stem * width, of=8)
        self.conv_stem = convolution(3, channels, 3, stride=2, padding=padding)
        self.bn1 = nn.BatchNorm2d(channels, eps=bn_eps)
        self.act1 = nn.ReLU()

        stages: list[nn.Module] = [nn.Sequential(FirstBlock(channels, bn_eps))]
        for first, other in plan.stages:
            others = round((1 + other.repeats) * depth) - 1
            outputs = round_to_multiple(first.channels * width, of=8)
            blocks = [Block(channels, outputs, first, padding, bn_eps)]
            blocks += [Block(outputs, outputs, other, padding, bn_eps) for _ in range(others)]
            stages.append(nn.Sequential(*blocks))
            channels = outputs
        self.blocks = nn.Sequential(*stages)

        self.conv_head = convolution(channels, HEAD, 1)
        self.bn2 = nn.BatchNorm2d(HEAD, eps=bn_eps)
        self.act2 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(plan.dropout)
        self.classifier = nn.Linear(HEAD, classes)
        set_first_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        x = self.act2(self.bn2(self.conv_head(x)))
        logits: Tensor = self.classifier(self.dropout(self.pool(x).flatten(1)))
        return logits


def mixnet(variant: str = "s", classes: int = 1000, padding: str = "symmetric", bn_eps: float = 1e-5) -> MixNet:
    """Builds a MixNet: `s` and `m` of the paper, `l` (`m`, 1.3 times wider), or timm's `xl` (wider and deeper).

    padding: `symmetric`, or `same` for weights from TensorFlow, which also require `bn_eps` 1e-3.
    """
    require_choice("variant", variant, tuple(VARIANTS))
    require_positive("classes", classes)
    require_choice("padding", padding, PADDINGS)
    require_positive("bn_eps", bn_eps)
    plan, width, depth = VARIANTS[variant]
    return MixNet(plan, width, depth, classes, padding, bn_eps)
