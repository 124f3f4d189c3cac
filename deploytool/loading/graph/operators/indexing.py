"""Operators that pick, sort or replace elements by their index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from deploytool.loading.graph.op import Op, Operator

_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}


def _positive(indices: torch.Tensor, side: int) -> torch.Tensor:
    """Indices that count from the start; ONNX counts negative ones from the end."""
    whole = indices.to(torch.int64)
    return torch.where(whole < 0, whole + side, whole)


def _gather(op: Op, x: Any, indices: torch.Tensor) -> torch.Tensor:
    if not isinstance(x, torch.Tensor):
        raise NotImplementedError("strings")
    axis = op.integer("axis") % x.dim()
    picked = torch.index_select(x, axis, _positive(indices.flatten(), x.shape[axis]))
    return torch.reshape(picked, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_elements(op: Op, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    axis = op.integer("axis")
    return torch.gather(x, axis, _positive(indices, x.shape[axis]))


def _gather_nd(op: Op, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    batches = op.integer("batch_dims")
    shape, depth = x.shape[:batches], indices.shape[-1]
    rows, places = x.reshape(-1, *x.shape[batches:]), indices.reshape(-1, *indices.shape[batches:])
    batch = torch.arange(len(rows)).view(-1, *[1] * (places.dim() - 2))
    at = [_positive(places[..., number], x.shape[batches + number]) for number in range(depth)]
    picked = rows[(batch.expand(places.shape[:-1]), *at)]
    return torch.reshape(picked, (*shape, *picked.shape[1:]))


def _scatter_elements(op: Op, x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    axis, reduction = op.integer("axis"), op.text("reduction", "none")
    at = _positive(indices, x.shape[axis])
    if reduction == "none":
        return torch.scatter(x, axis, at, updates)
    if reduction == "add":
        return torch.scatter_add(x, axis, at, updates)
    return torch.scatter_reduce(x, axis, at, updates, _REDUCTIONS[reduction])


def _scatter_nd(op: Op, x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    reduction, depth = op.text("reduction", "none"), indices.shape[-1]
    at = tuple(_positive(indices[..., number], x.shape[number]) for number in range(depth))
    if reduction in ("none", "add"):
        return torch.index_put(x, at, updates, accumulate=reduction == "add")
    rest = int(np.prod(x.shape[depth:], dtype=np.int64))
    row = torch.zeros_like(at[0])
    for index, side in zip(at, x.shape[:depth], strict=True):
        row = row * side + index
    places = (row.flatten()[:, None] * rest + torch.arange(rest)).flatten()
    flat = torch.scatter_reduce(x.flatten(), 0, places, updates.flatten(), _REDUCTIONS[reduction])
    return torch.reshape(flat, x.shape)


def _slice(op: Op, x: torch.Tensor, *given: torch.Tensor | None) -> torch.Tensor:
    """Before opset 10 the limits are attributes."""
    if op.version < 10:
        starts, ends = op.integers("starts"), op.integers("ends")
        axes, steps = op.integers("axes") or [*range(len(starts))], [1] * len(starts)
    else:
        lists = [None if each is None else each.flatten().tolist() for each in (*given, None, None)[:4]]
        starts, ends = lists[0] or [], lists[1] or []
        axes, steps = lists[2] or [*range(len(starts))], lists[3] or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _cut(x, axis % x.dim(), slice(start, end, step))
    return x


def _cut(x: torch.Tensor, axis: int, part: slice) -> torch.Tensor:
    """A slice along one axis; torch has no negative steps."""
    if part.step > 0:
        start, end, step = part.indices(x.shape[axis])
        return x[(*[slice(None)] * axis, slice(start, max(start, end), step))]
    places = torch.tensor([*range(*part.indices(x.shape[axis]))], dtype=torch.int64, device=x.device)
    return torch.index_select(x, axis, places)


def _top_k(op: Op, x: torch.Tensor, k: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Of equal elements the first comes first, so that the sort must be stable."""
    axis, count = op.integer("axis", -1), op.integer("k") if k is None else int(k)
    values, indices = torch.sort(x, dim=axis, descending=op.flag("largest", True), stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def _one_hot(op: Op, indices: torch.Tensor, depth: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    axis, count = op.integer("axis", -1), int(depth)
    axis = axis + indices.dim() + 1 if axis < 0 else axis
    at = _positive(indices, count)  # an index beyond the depth sets no element
    shape = [count if dim == axis else 1 for dim in range(indices.dim() + 1)]
    return torch.where(at.unsqueeze(axis) == torch.arange(count).view(shape), values[1], values[0])


def _non_zero(op: Op, x: torch.Tensor) -> torch.Tensor:
    return torch.permute(torch.nonzero(x), (1, 0)) if x.dim() else torch.nonzero(x.view(1)).view(1, -1)[:0]


def _compress(op: Op, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    source, axis = (x, op.integer("axis")) if op.has("axis") else (x.flatten(), 0)
    return torch.index_select(source, axis, torch.nonzero(condition).flatten())


def _reverse_sequence(op: Op, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    batch, time = op.integer("batch_axis", 1), op.integer("time_axis")
    places = torch.arange(x.shape[time])
    reversed_places = lengths.view(-1, 1) - 1 - places
    at = torch.where(reversed_places >= 0, reversed_places, places)
    index = at if batch < time else at.t()
    index = index.reshape([*index.shape, *[1] * (x.dim() - 2)]).expand(
        *[x.shape[axis] for axis in (0, 1)], *x.shape[2:]
    )
    return torch.gather(x, time, index)


OPERATORS: Mapping[str, Operator] = {
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "TopK": _top_k,
}
