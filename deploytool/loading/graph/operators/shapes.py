"""Operators that change the shape or make a tensor of a shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from deploytool.errors import StageFailed
from deploytool.loading.graph import element_types
from deploytool.loading.graph.op import Op, Operator


def _reshape(op: Op, x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """0 copies a dimension unless `allowzero` is set."""
    sizes = shape.tolist()
    if not op.flag("allowzero"):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return torch.reshape(x, sizes)


def _axes(op: Op, given: torch.Tensor | None) -> list[int]:
    return op.integers("axes") if given is None else given.flatten().tolist()


def _squeeze(op: Op, x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    dims = [axis % x.dim() for axis in _axes(op, axes)] or [axis for axis, side in enumerate(x.shape) if side == 1]
    wrong = [axis for axis in dims if x.shape[axis] != 1]
    if wrong:
        raise ValueError(f"axis {wrong[0]} has {x.shape[wrong[0]]} elements")
    return torch.reshape(x, [side for axis, side in enumerate(x.shape) if axis not in dims])


def _unsqueeze(op: Op, x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    given = _axes(op, axes)
    rank = x.dim() + len(given)
    for axis in sorted(axis % rank for axis in given):
        x = torch.unsqueeze(x, axis)
    return x


def _transpose(op: Op, x: torch.Tensor) -> torch.Tensor:
    return torch.permute(x, op.integers("perm") or [*reversed(range(x.dim()))])


def _flatten(op: Op, x: torch.Tensor) -> torch.Tensor:
    axis = op.integer("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return torch.reshape(x, (rows, int(np.prod(x.shape[axis:], dtype=np.int64))))


def _expand(op: Op, x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    return torch.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _shape(op: Op, x: Any) -> torch.Tensor:
    sizes = list(x.shape)[slice(*_bounds(op, len(x.shape)))]
    return torch.tensor(sizes, dtype=torch.int64)


def _bounds(op: Op, rank: int) -> tuple[int, int]:
    start, end, _ = slice(op.integer("start"), op.integer("end", rank)).indices(rank)
    return start, end


def _size(op: Op, x: Any) -> torch.Tensor:
    return torch.tensor(int(np.prod(x.shape, dtype=np.int64)), dtype=torch.int64)


def _concat(op: Op, *inputs: torch.Tensor) -> torch.Tensor:
    if not isinstance(inputs[0], torch.Tensor):
        raise NotImplementedError("strings")
    axis = op.integer("axis", 1)
    # torch skips 1-D tensors without elements whatever the axis, as ONNX does
    return torch.cat(inputs, axis)


def _split(op: Op, x: torch.Tensor, sizes: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    axis, count = op.integer("axis"), op.integer("num_outputs", len(op.node.output))
    given = op.integers("split") if sizes is None else sizes.tolist()
    parts: Sequence[torch.Tensor] = torch.split(x, given or -(-x.shape[axis] // count), axis)
    return tuple(parts)


def _tile(op: Op, x: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
    return torch.tile(x, repeats.tolist())


def _identity(op: Op, x: Any) -> Any:
    return x


def _dropout(op: Op, x: torch.Tensor, ratio: Any = None, training: torch.Tensor | None = None) -> Any:
    """In evaluation nothing is dropped."""
    if training is not None and bool(training) and (ratio is None or float(ratio) > 0):
        problem = f"the node {op.label} drops random elements, so that no two runs of the graph agree"
        raise StageFailed(problem, "export the model in evaluation mode: model.eval()")
    return x if len(op.node.output) == 1 else (x, torch.ones_like(x, dtype=torch.bool))


def _constant_of_shape(op: Op, shape: torch.Tensor) -> torch.Tensor:
    if not op.has("value"):
        return torch.zeros(shape.tolist(), dtype=torch.float32)
    value = element_types.stored(op.attributes["value"].t)
    if not isinstance(value, torch.Tensor):
        raise NotImplementedError("strings")
    value = element_types.widened(value)
    return torch.full(shape.tolist(), value.item(), dtype=value.dtype)


def _range(op: Op, start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """As ONNX defines it: start + index × delta, with the number of elements from the limits."""
    count = max(int(np.ceil((limit.item() - start.item()) / delta.item())), 0)
    return start + torch.arange(count, dtype=start.dtype, device=start.device) * delta


def _eye_like(op: Op, x: torch.Tensor) -> torch.Tensor:
    dtype = element_types.computed(op.integer("dtype")) if op.has("dtype") else x.dtype
    ones = torch.ones(tuple(x.shape), dtype=dtype)
    above = op.integer("k")
    return torch.triu(torch.tril(ones, above), above)


def _depth_to_space(op: Op, x: torch.Tensor) -> torch.Tensor:
    size = op.integer("blocksize")
    if op.text("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, size)
    batch, channels, height, width = x.shape
    blocks = torch.reshape(x, (batch, size, size, channels // size**2, height, width))
    moved = torch.permute(blocks, (0, 3, 4, 1, 5, 2))
    return torch.reshape(moved, (batch, channels // size**2, height * size, width * size))


def _space_to_depth(op: Op, x: torch.Tensor) -> torch.Tensor:
    size, (batch, channels, height, width) = op.integer("blocksize"), x.shape
    if op.text("mode", "DCR") == "CRD":
        return functional.pixel_unshuffle(x, size)
    blocks = torch.reshape(x, (batch, channels, height // size, size, width // size, size))
    moved = torch.permute(blocks, (0, 3, 5, 1, 2, 4))
    return torch.reshape(moved, (batch, channels * size**2, height // size, width // size))


def trilu(op: Op, x: torch.Tensor, k: torch.Tensor | None = None) -> torch.Tensor:
    """Trilu."""
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if op.flag("upper", True) else torch.tril(x, diagonal)


def _where(op: Op, condition: torch.Tensor, x: Any, y: Any) -> torch.Tensor:
    if not isinstance(x, torch.Tensor):
        raise NotImplementedError("strings")
    return torch.where(condition, x, y)


def _pad(
    op: Op,
    x: torch.Tensor,
    pads: torch.Tensor | None = None,
    value: torch.Tensor | None = None,
    axes: torch.Tensor | None = None,
) -> torch.Tensor:
    amounts = op.integers("pads") if pads is None else pads.tolist()
    number = op.number("value") if value is None else value.item()
    dims = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes.tolist()]
    pairs = dict(zip(dims, zip(amounts[: len(dims)], amounts[len(dims) :], strict=True), strict=True))
    mode = op.text("mode", "constant")
    if mode == "constant":
        around = [amount for axis in reversed(range(x.dim())) for amount in pairs.get(axis, (0, 0))]
        return functional.pad(x, around, value=bool(number) if x.dtype == torch.bool else number)
    for axis, (begin, end) in pairs.items():
        if begin or end:
            x = torch.index_select(x, axis, _padded_indices(x.shape[axis], begin, end, mode).to(x.device))
    return x


def _padded_indices(side: int, begin: int, end: int, mode: str) -> torch.Tensor:
    """Which elements stand where after padding; a negative amount cuts."""
    cut = np.arange(max(-begin, 0), side - max(-end, 0))
    return torch.from_numpy(np.pad(cut, (max(begin, 0), max(end, 0)), mode=mode))  # type: ignore[call-overload]


OPERATORS: Mapping[str, Operator] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Identity": _identity,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": trilu,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
