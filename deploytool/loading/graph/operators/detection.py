"""Operators of detectors: suppression of boxes, pooling of regions; and the sum of overlapping blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn import functional

from deploytool.loading.graph.op import Op, Operator


def _non_max_suppression(
    op: Op, boxes: torch.Tensor, scores: torch.Tensor, *limits: torch.Tensor | None
) -> torch.Tensor:
    """The kept boxes as (batch, class, index), the best first within each class; of equal scores the first box."""
    most, overlap, least = (None if limit is None else limit.item() for limit in (*limits, None, None, None)[:3])
    if not most:
        return torch.zeros((0, 3), dtype=torch.int64)
    rows = []
    corners = _corners(boxes, centred=op.flag("center_point_box"))
    for batch in range(scores.shape[0]):
        for number in range(scores.shape[1]):
            each = scores[batch, number]
            order = torch.sort(each, descending=True, stable=True).indices
            candidates = order if least is None else order[each[order] > least]
            kept = _suppressed(candidates, corners[batch], overlap or 0.0, int(most))
            rows += [(batch, number, index) for index in kept]
    return torch.tensor(rows, dtype=torch.int64).view(-1, 3)


def _corners(boxes: torch.Tensor, *, centred: bool) -> torch.Tensor:
    """Boxes with their smaller corner first; centred ones are (x, y, width, height)."""
    if centred:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.cat([middle - half, middle + half], -1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def _overlaps(box: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The intersection over the union of a box with others."""
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    common = torch.clamp(high - low, min=0).prod(-1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(-1) - common
    return torch.where(union > 0, common / union, torch.zeros_like(common))


def _suppressed(candidates: torch.Tensor, boxes: torch.Tensor, limit: float, most: int) -> list[int]:
    """The candidates, the best first, that overlap no better one by more than the limit."""
    kept: list[int] = []
    while len(candidates) and len(kept) < most:
        best = int(candidates[0])
        kept.append(best)
        rest = candidates[1:]
        candidates = rest[_overlaps(boxes[best], boxes[rest]) <= limit]
    return kept


def _roi_align(op: Op, x: torch.Tensor, rois: torch.Tensor, batch_indices: torch.Tensor) -> torch.Tensor:
    """Samples each region on a regular grid and takes the mean or the largest of each cell."""
    height, width = op.integer("output_height", 1), op.integer("output_width", 1)
    default = "half_pixel" if op.version >= 16 else "output_half_pixel"
    half_pixel = op.text("coordinate_transformation_mode", default) == "half_pixel"
    corners = rois * op.number("spatial_scale", 1.0) - (0.5 if half_pixel else 0.0)
    results = [x.new_zeros((0, x.shape[1], height, width))]
    for corner, batch in zip(corners, batch_indices.tolist(), strict=True):
        left, top, right, bottom = corner
        spans = [bottom - top, right - left]
        if not half_pixel:
            spans = [torch.clamp(span, min=1) for span in spans]
        ratio = op.integer("sampling_ratio")
        counts = [
            ratio or max(math.ceil(float(span) / cells), 1) for span, cells in zip(spans, (height, width), strict=True)
        ]
        at = [
            start + (torch.arange(cells * count) + 0.5) * (span / (cells * count))
            for start, span, cells, count in zip((top, left), spans, (height, width), counts, strict=True)
        ]
        samples = _bilinear(x[batch], at[0], at[1], largest=op.text("mode", "avg").lower() == "max")
        cells = samples.reshape(-1, height, counts[0], width, counts[1])
        pooled = cells.amax((2, 4)) if op.text("mode", "avg").lower() == "max" else cells.mean((2, 4))
        results.append(pooled[None])
    return torch.cat(results)


def _bilinear(image: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, *, largest: bool) -> torch.Tensor:
    """The image at rows × columns; zero outside. ONNX takes the largest of the four weighted neighbours for maxima."""
    (y_low, y_high, y_share, y_in), (x_low, x_high, x_share, x_in) = (
        _neighbours(at, side) for at, side in ((rows, image.shape[1]), (columns, image.shape[2]))
    )
    parts = [
        image[:, y][:, :, x] * (v[:, None] * h[None])
        for y, v in ((y_low, 1 - y_share), (y_high, y_share))
        for x, h in ((x_low, 1 - x_share), (x_high, x_share))
    ]
    stacked = torch.stack(parts)
    value = stacked.amax(0) if largest else stacked.sum(0)
    return torch.where(y_in[:, None] & x_in[None], value, torch.zeros_like(value))


def _neighbours(at: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The elements before and after each position, the share of the later one, and whether the position is inside."""
    inside = (at >= -1) & (at <= side)
    clipped = torch.clamp(at, 0, side - 1)
    low = torch.floor(clipped).to(torch.int64)
    return low, torch.clamp(low + 1, max=side - 1), clipped - low, inside


def _col2im(op: Op, x: torch.Tensor, image_shape: torch.Tensor, block_shape: torch.Tensor) -> torch.Tensor:
    count = block_shape.numel()
    pads = op.integers("pads") or [0] * 2 * count
    if count != 2 or pads[:2] != pads[2:]:
        raise NotImplementedError("torch folds images with symmetric padding only")
    dilations, strides = op.integers("dilations") or [1, 1], op.integers("strides") or [1, 1]
    sizes = tuple(image_shape.tolist()), tuple(block_shape.tolist())
    return functional.fold(x, *sizes, tuple(dilations), tuple(pads[:2]), tuple(strides))


OPERATORS: Mapping[str, Operator] = {
    "Col2Im": _col2im,
    "NonMaxSuppression": _non_max_suppression,
    "RoiAlign": _roi_align,
}
