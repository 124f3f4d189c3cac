"""ShuffleNet v1 (arXiv 1707.01083): grouped 1×1 convolutions, and a channel shuffle that mixes the groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import convolution, image_size, require_choice, require_positive, round_to_multiple, set_first_weights

# groups: channels of stage 2 at width 1; stages 3 and 4 each double them
FIRST_STAGE = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
# width: channels after the first convolution
STEM = {0.25: 6, 0.5: 12, 0.75: 18, 1.0: 24, 1.5: 24, 2.0: 48}


class ChannelShuffle(nn.Module):
    """Interleaves the channels of `groups` equal groups."""

    constant_size = True  # False if height or width of the input is dynamic

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.channels = channels
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        height, width = image_size(x, constant=self.constant_size)
        grouped = x.reshape(-1, self.groups, self.channels // self.groups, height, width)
        return grouped.transpose(1, 2).reshape(-1, self.channels, height, width)


@dataclass(frozen=True)
class Mixing:
    """The number of groups, and the details of the shuffle in which published checkpoints differ."""

    groups: int
    shuffle_order: str
    shuffle_place: str
    concat_order: str


class Unit(nn.Module):
    """1×1 → shuffle → depthwise 3×3 → 1×1; added to its input, or at stride 2 concatenated with the pooled input."""

    def __init__(self, inputs: int, outputs: int, mixing: Mixing, dense_start: bool = False) -> None:
        super().__init__()
        groups = mixing.groups
        middle = round_to_multiple(outputs // 4, of=groups)
        self.adds = inputs == outputs
        stride, expanded = (1, outputs) if self.adds else (2, outputs - inputs)
        # "megvii" is the inverse permutation of "paper"
        shuffle_groups = groups if mixing.shuffle_order == "paper" else middle // groups
        shuffle = ChannelShuffle(middle, shuffle_groups) if groups > 1 else nn.Identity()

        self.compress = convolution(inputs, middle, 1, groups=1 if dense_start else groups)
        self.compress_bn = nn.BatchNorm2d(middle)
        self.compress_relu = nn.ReLU()
        self.shuffle_before = shuffle if mixing.shuffle_place == "before" else nn.Identity()
        self.depthwise = convolution(middle, middle, 3, stride, groups=middle)
        self.depthwise_bn = nn.BatchNorm2d(middle)
        self.shuffle_after = shuffle if mixing.shuffle_place == "after" else nn.Identity()
        self.expand = convolution(middle, expanded, 1, groups=groups)
        self.expand_bn = nn.BatchNorm2d(expanded)
        self.shortcut = nn.Identity() if self.adds else nn.AvgPool2d(3, stride=2, padding=1)
        self.shortcut_first = mixing.concat_order == "shortcut_first"
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        main = self.compress_relu(self.compress_bn(self.compress(x)))
        main = self.depthwise_bn(self.depthwise(self.shuffle_before(main)))
        main = self.expand_bn(self.expand(self.shuffle_after(main)))
        joined: Tensor = self.relu(self.join(main, self.shortcut(x)))
        return joined

    def join(self, main: Tensor, shortcut: Tensor) -> Tensor:
        if self.adds:
            return main + shortcut
        return torch.cat((shortcut, main) if self.shortcut_first else (main, shortcut), dim=1)


def stage(inputs: int, outputs: int, repeats: int, mixing: Mixing, dense_start: bool = False) -> nn.Sequential:
    """One unit of stride 2 that changes the number of channels, then units that keep it."""
    units = [Unit(inputs, outputs, mixing, dense_start)]
    units += [Unit(outputs, outputs, mixing) for _ in range(repeats - 1)]
    return nn.Sequential(*units)


class ShuffleNet(nn.Module):
    """A stem, three stages of units, global average pooling and a classifier."""

    def __init__(self, mixing: Mixing, width: float, classes: int, stem: str, classifier_bias: bool) -> None:
        super().__init__()
        groups = mixing.groups
        channels = -(-STEM[width] // groups) * groups  # rounded up to a multiple of the groups
        second, third, fourth = (int(FIRST_STAGE[groups] * scale * width) for scale in (1, 2, 4))

        self.stem = convolution(3, channels, 3, stride=1 if stem == "cifar" else 2)
        self.stem_bn = nn.BatchNorm2d(channels)
        self.stem_relu = nn.ReLU()
        self.stem_pool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)
        self.stage2 = stage(channels, second, 4, mixing, dense_start=True)  # the stem has too few channels for groups
        self.stage3 = stage(second, third, 8, mixing)
        self.stage4 = stage(third, fourth, 4, mixing)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(fourth, classes, bias=classifier_bias)
        set_first_weights(self, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_pool(self.stem_relu(self.stem_bn(self.stem(x))))
        x = self.stage4(self.stage3(self.stage2(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def shufflenet(
    groups: int,
    width: float = 1.0,
    classes: int = 1000,
    stem: str = "imagenet",
    shuffle_order: str = "paper",
    shuffle_place: str = "before",
    concat_order: str = "main_first",
    classifier_bias: bool = True,
) -> ShuffleNet:
    """Builds a ShuffleNet v1 as in the paper; the last four options select variants of published checkpoints.

    stem: `imagenet`, or `cifar` for 32×32 images (no stride, no max-pool).
    shuffle_order: `paper`, or `megvii`, its inverse permutation.
    shuffle_place: `before` or `after` the depthwise convolution.
    concat_order: `main_first` or `shortcut_first`, the order of the branches of a unit of stride 2.
    Megvii's weights require `megvii`, `after`, `shortcut_first` and no classifier bias.
    """
    require_choice("groups", groups, tuple(FIRST_STAGE))
    require_choice("width", width, tuple(STEM))
    require_positive("classes", classes)
    require_choice("stem", stem, ("imagenet", "cifar"))
    require_choice("shuffle_order", shuffle_order, ("paper", "megvii"))
    require_choice("shuffle_place", shuffle_place, ("before", "after"))
    require_choice("concat_order", concat_order, ("main_first", "shortcut_first"))
    mixing = Mixing(groups, shuffle_order, shuffle_place, concat_order)
    return ShuffleNet(mixing, width, classes, stem, classifier_bias)
