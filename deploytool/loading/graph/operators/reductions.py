"""Reductions over axes, and the index of the largest or smallest element."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from deploytool.loading.graph.op import Op, Operator

Reduce = Callable[[torch.Tensor, Sequence[int], bool], torch.Tensor]  # x, axes, keepdim


def _reduction(function: Reduce, alone: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    """The axes are an attribute or, later, an input; `alone` is the reduction of each element by itself."""

    def apply(op: Op, x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
        dims = op.integers("axes") if axes is None else axes.tolist()
        if not dims and (op.flag("noop_with_empty_axes") or x.dim() == 0):
            return alone(x)
        dims = dims or list(range(x.dim()))
        if x.numel() == 0 and function in (_max, _min):
            raise NotImplementedError("the largest element of none")
        result = function(x, dims, op.flag("keepdims", True))
        return result if result.dtype == x.dtype else result.to(x.dtype)

    return apply


def _sum(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return torch.sum(x, dim=list(axes), keepdim=keep)


def _mean(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        return torch.mean(x, dim=list(axes), keepdim=keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc")


def _max(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return torch.amax(x, dim=list(axes), keepdim=keep)


def _min(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return torch.amin(x, dim=list(axes), keepdim=keep)


def _prod(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = torch.prod(x, dim=axis, keepdim=keep)
    return x


def _l1(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return _sum(x.abs(), axes, keep)


def _l2(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        norm: torch.Tensor = torch.linalg.vector_norm(x, 2, list(axes), keepdim=keep)
        return norm
    return torch.sqrt(_sum(x * x, axes, keep).to(torch.float64))


def _log_sum(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return torch.log(_sum(x, axes, keep))


def _log_sum_exp(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return torch.logsumexp(x, dim=list(axes), keepdim=keep)


def _sum_square(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return _sum(x * x, axes, keep)


def _arg(function: Callable[..., torch.Tensor]) -> Operator:
    def apply(op: Op, x: torch.Tensor) -> torch.Tensor:
        axis, keep = op.integer("axis"), op.flag("keepdims", True)
        if op.flag("select_last_index"):
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keep)
        return function(x, axis, keep)

    return apply


def _itself(x: torch.Tensor) -> torch.Tensor:
    return x


OPERATORS: Mapping[str, Operator] = {
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "ReduceL1": _reduction(_l1, torch.abs),
    "ReduceL2": _reduction(_l2, torch.abs),
    "ReduceLogSum": _reduction(_log_sum, torch.log),
    "ReduceLogSumExp": _reduction(_log_sum_exp, _itself),
    "ReduceMax": _reduction(_max, _itself),
    "ReduceMean": _reduction(_mean, _itself),
    "ReduceMin": _reduction(_min, _itself),
    "ReduceProd": _reduction(_prod, _itself),
    "ReduceSum": _reduction(_sum, _itself),
    "ReduceSumSquare": _reduction(_sum_square, torch.square),
}
