"""Normalisations, each as one torch call where there is one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from deploytool.loading.graph.op import Op, Operator


def _batch_norm(
    op: Op, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, var: torch.Tensor
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    epsilon = op.number("epsilon", 1e-5)
    if op.flag("training_mode") or (op.version < 14 and op.wants(1)):
        return _batch_norm_in_training(op, x, (scale, bias, mean, var))
    if x.dim() < 2:
        shaped = (x - mean) / torch.sqrt(var + epsilon)
        return shaped * scale + bias
    return functional.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def _batch_norm_in_training(op: Op, x: torch.Tensor, parameters: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """With the statistics of the batch; the other results are the running statistics."""
    scale, bias, mean, var = parameters
    momentum, axes = op.number("momentum", 0.9), [axis for axis in range(x.dim()) if axis != 1]
    shape = (1, -1, *[1] * (x.dim() - 2))
    batch_mean = torch.mean(x, dim=axes)
    centred = x - batch_mean.view(shape)
    batch_var = torch.mean(centred * centred, dim=axes)
    normal = centred / torch.sqrt(batch_var.view(shape) + op.number("epsilon", 1e-5))
    running = [old * momentum + new * (1 - momentum) for old, new in ((mean, batch_mean), (var, batch_var))]
    return (normal * scale.view(shape) + bias.view(shape), *running)


def _instance_norm(op: Op, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if x[0, 0].numel() == 1:  # torch refuses it, though the result is defined
        shape = (1, -1, *[1] * (x.dim() - 2))
        return (x - x) * scale.view(shape) + bias.view(shape)
    return functional.instance_norm(x, weight=scale, bias=bias, eps=op.number("epsilon", 1e-5))


def _group_norm(op: Op, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Before opset 21 there is one scale for each group instead of each channel."""
    groups = op.integer("num_groups")
    if op.version < 21:
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return functional.group_norm(x, groups, scale, bias, op.number("epsilon", 1e-5))


def layer_norm(
    op: Op, x: torch.Tensor, scale: torch.Tensor | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """LayerNormalization, with the mean and the inverse deviation where the node has these outputs."""
    axis, epsilon = op.integer("axis", -1) % x.dim(), op.number("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    fits = all(weight is None or list(weight.shape) == shape for weight in (scale, bias))
    if fits:
        result = functional.layer_norm(x, shape, scale, bias, epsilon)
    else:
        normal = functional.layer_norm(x, shape, None, None, epsilon)
        scaled = normal if scale is None else normal * scale
        result = scaled if bias is None else scaled + bias
    if len(op.node.output) == 1:
        return result
    axes = [*range(axis, x.dim())]
    mean = torch.mean(x, dim=axes, keepdim=True)
    variance = torch.mean((x - mean) * (x - mean), dim=axes, keepdim=True)
    return result, mean, torch.rsqrt(variance + epsilon)


def rms_norm(op: Op, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """RMSNormalization."""
    axis, epsilon = op.integer("axis", -1) % x.dim(), op.number("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape:
        return functional.rms_norm(x, shape, scale, epsilon)
    return functional.rms_norm(x, shape, None, epsilon) * scale


def _lp_norm(op: Op, x: torch.Tensor) -> torch.Tensor:
    axis = op.integer("axis", -1)
    length = torch.linalg.vector_norm(x, op.integer("p", 2), axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(x), x / length)


def _local_response_norm(op: Op, x: torch.Tensor) -> torch.Tensor:
    size, alpha, beta = op.integer("size"), op.number("alpha", 1e-4), op.number("beta", 0.75)
    bias = op.number("bias", 1.0)
    if size % 2:
        return functional.local_response_norm(x, size, alpha, beta, bias)
    squares = (x * x).flatten(2).transpose(1, 2)
    padded = functional.pad(squares, ((size - 1) // 2, size - 1 - (size - 1) // 2))
    total = padded.unfold(2, size, 1).sum(-1).transpose(1, 2).reshape(x.shape)
    return x / torch.pow(total * (alpha / size) + bias, beta)


def _mean_variance_norm(op: Op, x: torch.Tensor) -> torch.Tensor:
    axes = op.integers("axes", (0, 2, 3))
    centred = x - torch.mean(x, dim=axes, keepdim=True)
    return centred / (torch.sqrt(torch.mean(centred * centred, dim=axes, keepdim=True)) + 1e-9)


OPERATORS: Mapping[str, Operator] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LayerNormalization": layer_norm,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance_norm,
    "RMSNormalization": rms_norm,
}
