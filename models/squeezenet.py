"""SqueezeNet (arXiv 1602.07360): fire modules reduce the channels, then expand them by parallel 1×1 and 3×3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deploytool.errors import BadInput

from .layers import require_choice, require_positive

FIRES = 8  # fire2 to fire9 in the paper, 0 to 7 here


@dataclass(frozen=True)
class Layout:
    """The differences of the published versions: the first convolution, and the fire modules after a max-pool."""

    stem: int
    kernel: int
    pool_before: tuple[int, int, int]


LAYOUTS = {"1.0": Layout(96, 7, (0, 3, 7)), "1.1": Layout(64, 3, (0, 2, 4))}


@dataclass(frozen=True)
class FireSize:
    """The output channels of the three convolutions of a fire module."""

    squeeze: int
    expand1x1: int
    expand3x3: int

    @property
    def outputs(self) -> int:
        return self.expand1x1 + self.expand3x3


def fire_plan(
    base_e: int = 128, incr_e: int = 128, pct3x3: float = 0.5, freq: int = 2, sr: float = 0.125
) -> tuple[FireSize, ...]:
    """The sizes of all fire modules from the paper's five meta-parameters; the defaults are the published network.

    Fire module i expands to `base_e + incr_e * (i // freq)` channels, a fraction `pct3x3` of them by 3×3 convolutions,
    and squeezes to `sr` (the paper's squeeze ratio SR) times as many before.
    """
    require_positive("freq", freq)
    expansions = [base_e + incr_e * (i // freq) for i in range(FIRES)]
    plan = tuple(FireSize(int(sr * e), e - int(e * pct3x3), int(e * pct3x3)) for e in expansions)
    if min(min(size.squeeze, size.expand1x1, size.expand3x3) for size in plan) < 1:
        raise BadInput(
            f"base_e {base_e}, incr_e {incr_e}, pct3x3 {pct3x3} and sr {sr} leave a fire module without channels",
            "raise base_e or sr, and keep pct3x3 between 0 and 1",
        )
    return plan


class Fire(nn.Module):
    """Squeeze, expand by two convolutions, concatenate; with a bypass, add the input."""

    def __init__(self, inputs: int, size: FireSize, bypass: str) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, size.squeeze, 1)
        self.squeeze_relu = nn.ReLU()
        self.expand1x1 = nn.Conv2d(size.squeeze, size.expand1x1, 1)
        self.expand1x1_relu = nn.ReLU()
        self.expand3x3 = nn.Conv2d(size.squeeze, size.expand3x3, 3, padding=1)
        self.expand3x3_relu = nn.ReLU()
        self.bypass: nn.Module | None = None
        if inputs == size.outputs and bypass != "none":
            self.bypass = nn.Identity()
        elif bypass == "complex":
            self.bypass = nn.Conv2d(inputs, size.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze_relu(self.squeeze(x))
        one = self.expand1x1_relu(self.expand1x1(squeezed))
        three = self.expand3x3_relu(self.expand3x3(squeezed))
        expanded = torch.cat((one, three), dim=1)
        return expanded if self.bypass is None else expanded + self.bypass(x)


class SqueezeNet(nn.Module):
    """A convolution, eight fire modules with three max-pools between them, a 1×1 classifier and average pooling."""

    def __init__(self, layout: Layout, plan: tuple[FireSize, ...], bypass: str, classes: int) -> None:
        super().__init__()
        channels = layout.stem
        features: list[nn.Module] = [nn.Conv2d(3, channels, layout.kernel, stride=2), nn.ReLU()]
        for i, size in enumerate(plan):
            if i in layout.pool_before:
                features.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            features.append(Fire(channels, size, bypass))
            channels = size.outputs
        self.features = nn.Sequential(*features)

        last = nn.Conv2d(channels, classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(0.5), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.set_first_weights(last)

    def set_first_weights(self, last: nn.Conv2d) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(last.weight, 0.0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits.flatten(1)


def squeezenet(
    version: str = "1.0",
    bypass: str = "none",
    classes: int = 1000,
    base_e: int = 128,
    incr_e: int = 128,
    pct3x3: float = 0.5,
    freq: int = 2,
    sr: float = 0.125,
) -> SqueezeNet:
    """Builds a SqueezeNet; the last five options are the paper's meta-parameters, see `fire_plan`.

    version: `1.0`, or `1.1` with 2.4 times less computation.
    bypass: `none`; `simple`, around fire modules that keep the number of channels; `complex`, also around the others,
    through a 1×1 convolution.
    """
    require_choice("version", version, tuple(LAYOUTS))
    require_choice("bypass", bypass, ("none", "simple", "complex"))
    require_positive("classes", classes)
    return SqueezeNet(LAYOUTS[version], fire_plan(base_e, incr_e, pct3x3, freq, sr), bypass, classes)
