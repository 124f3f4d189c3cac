"""Building blocks shared by several families: padded convolutions, static sizes, weight initialisation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploytool.errors import BadInput

PADDINGS = ("symmetric", "same")


def require_choice(option: str, value: object, choices: Sequence[object]) -> None:
    """Raises BadInput unless `value` is one of `choices`."""
    if value not in choices:
        raise BadInput(f"{option} cannot be {value!r}", f"choose {option} from {', '.join(map(repr, choices))}")


def require_positive(option: str, value: float) -> None:
    """Raises BadInput unless `value` is greater than zero."""
    if not value > 0:
        raise BadInput(f"{option} cannot be {value!r}", f"give a {option} greater than zero")


def round_to_multiple(value: float, of: int) -> int:
    """Rounds to the nearest multiple of `of` that is at least 90 % of `value`: the papers' rule for channel counts."""
    nearest = max(of, int(value + of / 2) // of * of)
    return nearest if nearest >= 0.9 * value else nearest + of


def image_size(x: Tensor, *, constant: bool) -> tuple[int, int]:
    """Height and width of `x`; with `constant`, they are constants in an ONNX export.

    Constants leave no shape computations in the graph. Eager mode and TorchScript always accept any image size.
    """
    height, width = x.shape[2:]
    if not constant or not torch.onnx.is_in_onnx_export():
        return height, width
    with warnings.catch_warnings():  # the exporter warns that the sizes become constants, which is intended
        warnings.simplefilter("ignore")
        return int(height), int(width)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis as (before, after); requires kernel >= stride.

    The smallest padding for ceil(size / stride) outputs; an odd pixel is added after.
    """
    steps = (size + stride - 1) // stride - 1  # not -(-size // stride): ONNX divides towards zero
    total = steps * stride + kernel - size
    return total // 2, total - total // 2


class SamePadConv2d(nn.Conv2d):
    """A square convolution with TensorFlow's SAME padding, which depends on the input size and may be asymmetric."""

    constant_size = True  # False if height or width of the input is dynamic

    def forward(self, input: Tensor) -> Tensor:
        height, width = image_size(input, constant=self.constant_size)
        kernel, stride = self.kernel_size[0], self.stride[0]
        sides = same_padding(width, kernel, stride) + same_padding(height, kernel, stride)
        return super().forward(F.pad(input, sides))


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, padding: str = "symmetric"
) -> nn.Conv2d:
    """A convolution without bias, to be followed by a batch norm; at stride 1 both kinds of padding are equal."""
    if padding == "same" and stride > 1:
        return SamePadConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def set_first_weights(model: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_in") -> None:
    """Initialises convolutions with He's normal distribution and linear layers with N(0, 0.01); biases are 0.

    `fan_in` preserves the scale of activations, also in depthwise convolutions, for which torch computes `fan_out` over
    all channels; `fan_out` suits networks with shortcuts.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.01)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
