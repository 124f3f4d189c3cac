"""Activation functions, each as one torch call where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from deploytool.loading.graph.op import Op, Operator

_EXACT = 50.0  # above this Softplus is its input, even in FP64; torch's own threshold of 20 is right only for FP32


def _along_axis(function: Callable[..., torch.Tensor]) -> Operator:
    """Before opset 13 the dimensions from the axis on are one."""

    def apply(op: Op, x: torch.Tensor) -> torch.Tensor:
        if op.version >= 13:
            return function(x, dim=op.integer("axis", -1))
        axis = op.integer("axis", 1)
        if axis % max(x.dim(), 1) == x.dim() - 1:
            return function(x, dim=-1)
        return function(x.flatten(axis), dim=-1).reshape(x.shape)

    return apply


def _hardmax(x: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1)


def _elu(op: Op, x: torch.Tensor) -> torch.Tensor:
    return functional.elu(x, op.number("alpha", 1.0))


def _celu(op: Op, x: torch.Tensor) -> torch.Tensor:
    return functional.celu(x, op.number("alpha", 1.0))


def _selu(op: Op, x: torch.Tensor) -> torch.Tensor:
    alpha, gamma = op.number("alpha", 1.67326319217681884765625), op.number("gamma", 1.05070102214813232421875)
    return gamma * functional.elu(x, alpha)


def _gelu(op: Op, x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate=op.text("approximate", "none"))


def _hard_sigmoid(op: Op, x: torch.Tensor) -> torch.Tensor:
    return torch.clamp(x * op.number("alpha", 0.2) + op.number("beta", 0.5), 0, 1)


def leaky_relu(op: Op, x: torch.Tensor) -> torch.Tensor:
    """LeakyRelu."""
    return functional.leaky_relu(x, op.number("alpha", 0.01))


def _prelu(op: Op, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, x * slope, x)


def _shrink(op: Op, x: torch.Tensor) -> torch.Tensor:
    edge, bias = op.number("lambd", 0.5), op.number("bias", 0.0)
    small = torch.zeros_like(x)
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, small)).to(x.dtype)


def _softplus(op: Op, x: torch.Tensor) -> torch.Tensor:
    return functional.softplus(x, threshold=_EXACT)


def _swish(op: Op, x: torch.Tensor) -> torch.Tensor:
    alpha = op.number("alpha", 1.0)
    return functional.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


def _thresholded_relu(op: Op, x: torch.Tensor) -> torch.Tensor:
    return functional.threshold(x, op.number("alpha", 1.0), 0)


OPERATORS: Mapping[str, Operator] = {
    "Celu": _celu,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda op, x: functional.hardswish(x),
    "Hardmax": _along_axis(_hardmax),
    "LeakyRelu": leaky_relu,
    "LogSoftmax": _along_axis(torch.log_softmax),
    "Mish": lambda op, x: functional.mish(x),
    "PRelu": _prelu,
    "Relu": lambda op, x: torch.relu(x),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": lambda op, x: torch.sigmoid(x),
    "Softmax": _along_axis(torch.softmax),
    "Softplus": _softplus,
    "Softsign": lambda op, x: functional.softsign(x),
    "Swish": _swish,
    "Tanh": lambda op, x: torch.tanh(x),
    "ThresholdedRelu": _thresholded_relu,
}
