"""Resize and Upsample in all their modes, and the sampling of grids.

A common form is one call of `functional.interpolate`. Every other is computed side by side: each output position is a
weighted sum of a few input positions, its taps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from deploytool.loading.graph.op import Op, Operator

Floats = npt.NDArray[np.float64]
_TORCH_MODES = {(3, "linear"): "linear", (4, "linear"): "bilinear", (5, "linear"): "trilinear", (4, "cubic"): "bicubic"}
_TORCH_CUBIC = -0.75


@dataclass(frozen=True)
class _Resampling:
    """The attributes of a Resize node."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    antialias: bool
    exclude_outside: bool
    extrapolation: float

    @classmethod
    def of(cls, op: Op) -> _Resampling:
        """The attributes, with those of the forms before opset 11."""
        default = "half_pixel" if op.version >= 11 and op.node.op_type == "Resize" else "asymmetric"
        nearest = "round_prefer_floor" if default == "half_pixel" else "floor"
        return cls(
            op.text("mode", "nearest"),
            op.text("coordinate_transformation_mode", default),
            op.text("nearest_mode", nearest),
            op.number("cubic_coeff_a", _TORCH_CUBIC),
            op.flag("antialias"),
            op.flag("exclude_outside"),
            op.number("extrapolation_value"),
        )


@dataclass(frozen=True)
class _Side:
    """One axis that is resized: its lengths, its scale, and the region that is cropped from it."""

    axis: int
    source: int
    target: int
    scale: float
    region: tuple[float, float]


def _resize(
    op: Op,
    x: torch.Tensor,
    roi: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    sizes: torch.Tensor | None = None,
) -> torch.Tensor:
    if op.version < 11 or op.node.op_type == "Upsample":
        roi, scales = None, roi
    how = _Resampling.of(op)
    sides = _sides(op, x, roi, scales, sizes)
    changed = [side for side in sides if side.source != side.target or how.coordinates == "tf_crop_and_resize"]
    if not changed:
        return x
    if (result := _by_interpolate(x, how, changed)) is not None:
        return result
    for side in changed:
        x = _along(x, how, side)
    return x


def _sides(
    op: Op, x: torch.Tensor, roi: torch.Tensor | None, scales: torch.Tensor | None, sizes: torch.Tensor | None
) -> list[_Side]:
    """The axes with their scales: given, or from the sizes, which may have to keep the aspect ratio."""
    axes = [axis % x.dim() for axis in op.integers("axes")] or [*range(x.dim())]
    sources = [x.shape[axis] for axis in axes]
    regions = [(0.0, 1.0)] * len(axes)
    if roi is not None and roi.numel():
        numbers = roi.tolist()
        regions = [*zip(numbers[: len(axes)], numbers[len(axes) :], strict=True)]
    if (scales is not None and scales.numel()) or op.has("scales"):
        factors = op.numbers("scales") if scales is None else [float(scale) for scale in scales.tolist()]
        ends = zip(sources, factors, regions, strict=True)
        cropped = op.text("coordinate_transformation_mode") == "tf_crop_and_resize"
        targets = [
            math.floor(source * factor * (end - start if cropped else 1) + 1e-9)
            for source, factor, (start, end) in ends
        ]
    else:
        assert sizes is not None
        targets = sizes.tolist()
        factors = [target / source if source else 1.0 for target, source in zip(targets, sources, strict=True)]
        policy = op.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factor = min(factors) if policy == "not_larger" else max(factors)
            factors = [factor] * len(axes)
            targets = [math.floor(source * factor + 0.5) for source in sources]
    return [_Side(*side) for side in zip(axes, sources, targets, factors, regions, strict=True)]


def _by_interpolate(x: torch.Tensor, how: _Resampling, sides: Sequence[_Side]) -> torch.Tensor | None:
    """The result of torch's interpolation; None where it computes something else."""
    if how.antialias or not x.is_floating_point() or any(side.axis < 2 for side in sides):
        return None
    target = list(x.shape[2:])
    for side in sides:
        target[side.axis - 2] = side.target
        if abs(side.source * side.scale - side.target) > 1e-6 * side.target:
            return None
    if how.mode == "nearest":
        whole = all(side.target % side.source == 0 for side in sides)
        same = (how.coordinates, how.nearest) in (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
        return functional.interpolate(x, target, mode="nearest") if whole and same and 3 <= x.dim() <= 5 else None
    mode = _TORCH_MODES.get((x.dim(), how.mode))
    half = how.coordinates == "half_pixel" or (
        how.coordinates == "pytorch_half_pixel" and all(side.target > 1 for side in sides)
    )
    corners = how.coordinates == "align_corners" and all(side.target > 1 for side in sides)
    if mode is None or not (half or corners) or (how.mode == "cubic" and how.cubic != _TORCH_CUBIC):
        return None
    if how.exclude_outside and how.mode == "cubic":
        return None
    return functional.interpolate(x, target, mode=mode, align_corners=corners)


def _along(x: torch.Tensor, how: _Resampling, side: _Side) -> torch.Tensor:
    """The tensor resized along one axis."""
    positions = _positions(how, side)
    indices, weights = _nearest(how, positions) if how.mode == "nearest" else _taps(how, side, positions)
    outside = (positions < 0) | (positions > side.source - 1)
    if how.exclude_outside and how.mode != "nearest":
        weights = np.where((indices >= 0) & (indices < side.source), weights, 0)
        weights = weights / weights.sum(axis=1, keepdims=True)
    places = torch.from_numpy(indices.clip(0, side.source - 1))
    shape = [-1 if dim == side.axis else 1 for dim in range(x.dim())]
    result = torch.index_select(x, side.axis, places[:, 0])
    if how.mode != "nearest":
        factors = torch.from_numpy(weights).to(x.dtype if x.is_floating_point() else torch.float32)
        result = result * factors[:, 0].view(shape)
        for tap in range(1, places.shape[1]):
            result = result + torch.index_select(x, side.axis, places[:, tap]) * factors[:, tap].view(shape)
    if how.coordinates == "tf_crop_and_resize" and outside.any():
        result = torch.where(torch.from_numpy(outside).view(shape), how.extrapolation, result)
    return result if x.is_floating_point() else result.to(x.dtype)


def _positions(how: _Resampling, side: _Side) -> Floats:
    """Where in the source each element of the result lies."""
    at = np.arange(side.target, dtype=np.float64)
    if how.coordinates == "align_corners":
        # the length of the result, as ONNX Runtime and PyTorch have it; onnx.reference has source × scale
        return at * (side.source - 1) / (side.target - 1) if side.target > 1 else np.zeros_like(at)
    if how.coordinates == "asymmetric":
        return at / side.scale
    if how.coordinates == "pytorch_half_pixel" and side.target <= 1:
        return np.full_like(at, -0.5)
    if how.coordinates == "half_pixel_symmetric":
        centre = side.source / 2 * (1 - side.target / (side.source * side.scale))
        return centre + (at + 0.5) / side.scale - 0.5
    if how.coordinates == "tf_half_pixel_for_nn":
        return (at + 0.5) / side.scale
    if how.coordinates == "tf_crop_and_resize":
        start, end = side.region
        if side.target == 1:
            return np.full_like(at, 0.5 * (start + end) * (side.source - 1))
        return start * (side.source - 1) + at * (end - start) * (side.source - 1) / (side.target - 1)
    return (at + 0.5) / side.scale - 0.5


def _nearest(how: _Resampling, positions: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    rounded = {
        "round_prefer_floor": np.ceil(positions - 0.5),
        "round_prefer_ceil": np.floor(positions + 0.5),
        "floor": np.floor(positions),
        "ceil": np.ceil(positions),
    }[how.nearest]
    return rounded.astype(np.int64)[:, None], np.ones((len(positions), 1))


def _taps(how: _Resampling, side: _Side, positions: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """The indices of the taps of each position, which may lie outside, and their weights.

    With antialiasing the kernel is as much wider as the result is smaller.
    """
    stretch = min(side.scale, 1.0) if how.antialias else 1.0
    reach = (1 if how.mode == "linear" else 2) / stretch
    first = np.floor(positions - reach).astype(np.int64) + 1
    indices = first[:, None] + np.arange(2 * math.ceil(reach))
    distances = np.abs(indices - positions[:, None]) * stretch
    if how.mode == "linear":
        weights = np.maximum(1 - distances, 0)
    else:
        a = how.cubic
        near = ((a + 2) * distances - (a + 3)) * distances**2 + 1
        far = ((distances - 5) * distances + 8) * distances * a - 4 * a
        weights = np.where(distances <= 1, near, np.where(distances < 2, far, 0))
    if how.antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return indices, weights


def grid_sample(op: Op, x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """GridSample."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(op.text("mode"), op.text("mode", "bilinear"))
    padding, corners = op.text("padding_mode", "zeros"), op.flag("align_corners")
    if mode == "bicubic" and x.dim() != 4:
        raise NotImplementedError("torch has bicubic sampling for images only")
    return functional.grid_sample(x, grid, mode, padding, corners)


def _affine_grid(op: Op, theta: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    return functional.affine_grid(theta, size.tolist(), op.flag("align_corners"))


OPERATORS: Mapping[str, Operator] = {
    "AffineGrid": _affine_grid,
    "GridSample": grid_sample,
    "Resize": _resize,
    "Upsample": _resize,
}
