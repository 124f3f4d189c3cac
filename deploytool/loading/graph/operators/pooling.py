"""Pools over windows and over whole sides."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from deploytool.loading.graph.op import Op, Operator
from deploytool.loading.graph.operators.windows import Window

_LOWEST = torch.finfo(torch.float32).min  # not -inf, which a random rounding turns into NaN
_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _max_pool(op: Op, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    sides = x.dim() - 2
    window = Window.of(op, x.shape[2:], op.integers("kernel_shape"))
    padding = window.symmetric_padding()
    if sides not in _MAX or not x.is_floating_point() or padding is None or op.wants(1) or not _fits(window, padding):
        return _max_of_windows(op, x, window)
    return _MAX[sides](x, window.kernel, window.strides, padding, window.dilations, window.ceil)


def _fits(window: Window, padding: list[int]) -> bool:
    """Whether torch pads by itself: at most half of each window."""
    return all(2 * margin <= width for margin, width in zip(padding, window.kernel, strict=True))


def _max_of_windows(op: Op, x: torch.Tensor, window: Window) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    lowest = _LOWEST if x.is_floating_point() else torch.iinfo(x.dtype).min
    windows = window.unfolded(x, lowest).flatten(2 + len(window.kernel))
    if not op.wants(1):
        return torch.amax(windows, -1)
    values, position = windows.max(-1)
    return values, _index_in_input(op, x, window, position)


def _index_in_input(op: Op, x: torch.Tensor, window: Window, position: torch.Tensor) -> torch.Tensor:
    """The index, in the flattened input, of a position in each window."""
    sides = list(x.shape[2:])
    coordinates, rest = [], position
    for dim in reversed(range(len(sides))):
        at = torch.arange(position.shape[2 + dim]).view(-1, *[1] * (len(sides) - 1 - dim))
        within = torch.remainder(rest, window.kernel[dim])
        rest = torch.div(rest, window.kernel[dim], rounding_mode="floor")
        coordinates.append(at * window.strides[dim] + within * window.dilations[dim] - window.begins[dim])
    ordered = [*zip(reversed(coordinates), sides, strict=True)]
    index, size = torch.zeros_like(position), 1
    for coordinate, side in ordered if op.integer("storage_order") else reversed(ordered):
        index, size = index + coordinate * size, size * side
    planes = torch.arange(x.shape[0] * x.shape[1]).view(x.shape[0], x.shape[1], *[1] * len(sides))
    return index + planes * size


def average_pool(op: Op, x: torch.Tensor) -> torch.Tensor:
    """AveragePool; torch has neither dilations nor asymmetric padding."""
    sides, counted = x.dim() - 2, op.flag("count_include_pad")
    window = Window.of(op, x.shape[2:], op.integers("kernel_shape"))
    padding = window.symmetric_padding()
    plain = set(window.dilations) == {1} and sides in _AVERAGE
    if plain and padding is not None and _fits(window, padding):
        return _AVERAGE[sides](x, window.kernel, window.strides, padding, window.ceil, counted)
    dims = [*range(-sides, 0)]
    total = window.unfolded(x, 0).sum(dims)
    ones = torch.ones_like(x[:1, :1])
    if not counted:
        return total / window.unfolded(ones, 0).sum(dims)
    around = functional.pad(ones, window.around(), value=1)
    inner = Window(window.kernel, window.strides, window.dilations, [0] * sides, [0] * sides, window.ceil)
    return total / _first_windows(inner.unfolded(around, 0).sum(dims), total)


def _first_windows(counts: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    for dim in range(2, total.dim()):
        counts = counts.narrow(dim, 0, total.shape[dim])
    return counts


def _lp_pool(op: Op, x: torch.Tensor) -> torch.Tensor:
    power = op.integer("p", 2)
    window = Window.of(op, x.shape[2:], op.integers("kernel_shape"))
    windows = window.unfolded(x, 0).flatten(x.dim())
    norm: torch.Tensor = torch.linalg.vector_norm(windows, power, -1)
    return norm


def _sides(x: torch.Tensor) -> list[int]:
    return [*range(2, x.dim())]


def global_average(op: Op, x: torch.Tensor) -> torch.Tensor:
    """GlobalAveragePool."""
    return torch.mean(x, dim=_sides(x), keepdim=True)


def _global_max(op: Op, x: torch.Tensor) -> torch.Tensor:
    return torch.amax(x, dim=_sides(x), keepdim=True)


def _global_lp(op: Op, x: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(x, op.integer("p", 2), _sides(x), keepdim=True)
    return norm


def _max_unpool(op: Op, x: torch.Tensor, indices: torch.Tensor, shape: torch.Tensor | None = None) -> torch.Tensor:
    """The values at their indices; a given shape may be larger than that of the pooled input, and is filled up."""
    window = Window.of(op, x.shape[2:], op.integers("kernel_shape"))
    spans = zip(x.shape[2:], window.strides, window.kernel, window.begins, window.ends, strict=True)
    sides = [(side - 1) * step + width - begin - end for side, step, width, begin, end in spans]
    inferred = [*x.shape[:2], *sides]
    flat = torch.zeros(inferred, dtype=x.dtype, device=x.device).flatten()
    result = flat.scatter(0, indices.flatten(), x.flatten()).reshape(inferred)
    full = inferred if shape is None else shape.tolist()
    around = [amount for want, side in reversed([*zip(full, inferred, strict=True)]) for amount in (0, want - side)]
    return functional.pad(result, around) if any(around) else result


OPERATORS: Mapping[str, Operator] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average,
    "GlobalLpPool": _global_lp,
    "GlobalMaxPool": _global_max,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
}
