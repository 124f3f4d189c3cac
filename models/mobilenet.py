"""MobileNet v1 (arXiv 1704.04861): depthwise 3×3 and pointwise 1×1 convolutions instead of dense 3×3 ones."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import PADDINGS, convolution, require_choice, require_positive, round_to_multiple, set_first_weights

STEM = 32
STAGES = (  # of blocks (channels, stride); the paper prints stride 2 for the last one, but its output stays 7×7
    ((64, 1),),
    ((128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    ((1024, 2), (1024, 1)),
)


def activate(name: str) -> nn.Module:
    """A new activation module, `relu` or `relu6`."""
    return nn.ReLU6() if name == "relu6" else nn.ReLU()


class DepthwiseSeparable(nn.Module):
    """A depthwise 3×3 convolution, then a pointwise 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str, padding: str, bn_eps: float) -> None:
        super().__init__()
        self.conv_dw = convolution(inputs, inputs, 3, stride, groups=inputs, padding=padding)
        self.bn1 = nn.BatchNorm2d(inputs, eps=bn_eps)
        self.act1 = activate(activation)
        self.conv_pw = convolution(inputs, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs, eps=bn_eps)
        self.act2 = activate(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_dw(x)))
        y: Tensor = self.act2(self.bn2(self.conv_pw(x)))
        return y


class MobileNet(nn.Module):
    """One dense convolution, thirteen depthwise separable ones, global average pooling and a classifier."""

    def __init__(self, width: float, classes: int, stem: str, activation: str, padding: str, bn_eps: float) -> None:
        super().__init__()
        channels = round_to_multiple(STEM * width, of=8)
        self.conv_stem = convolution(3, channels, 3, stride=1 if stem == "cifar" else 2, padding=padding)
        self.bn1 = nn.BatchNorm2d(channels, eps=bn_eps)
        self.act1 = activate(activation)

        stages: list[nn.Module] = []
        for stage in STAGES:
            blocks: list[nn.Module] = []
            for unscaled, stride in stage:
                outputs = round_to_multiple(unscaled * width, of=8)
                blocks.append(DepthwiseSeparable(channels, outputs, stride, activation, padding, bn_eps))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)

        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        set_first_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def mobilenet_v1(
    width: float = 1.0,
    classes: int = 1000,
    stem: str = "imagenet",
    activation: str = "relu",
    padding: str = "symmetric",
    bn_eps: float = 1e-5,
) -> MobileNet:
    """Builds a MobileNet v1; channel counts are multiplied by `width` and rounded to multiples of 8.

    stem: `imagenet`, or `cifar` for 32×32 images (no stride in the first convolution).
    activation: `relu`, or `relu6` for the weights of timm and Google.
    padding: `symmetric`, or `same` for weights from TensorFlow, which also require `bn_eps` 1e-3.
    """
    require_positive("width", width)
    require_positive("classes", classes)
    require_choice("stem", stem, ("imagenet", "cifar"))
    require_choice("activation", activation, ("relu", "relu6"))
    require_choice("padding", padding, PADDINGS)
    require_positive("bn_eps", bn_eps)
    return MobileNet(width, classes, stem, activation, padding, bn_eps)
