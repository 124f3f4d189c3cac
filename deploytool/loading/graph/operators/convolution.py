"""Convolutions and transposed convolutions, over one to three dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from deploytool.loading.graph.op import Op, Operator
from deploytool.loading.graph.operators.windows import Window

_FORWARD = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def conv(op: Op, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Conv; asymmetric padding is added to the input first."""
    sides = x.dim() - 2
    if sides not in _FORWARD:
        raise NotImplementedError(f"a convolution over {sides} dimensions")
    window = Window.of(op, x.shape[2:], op.integers("kernel_shape") or list(weight.shape[2:]))
    padded, padding = x, window.symmetric_padding()
    if padding is None:
        padded, padding = functional.pad(x, window.around()), [0] * sides
    group = op.integer("group", 1)
    return _FORWARD[sides](padded, weight, bias, window.strides, padding, window.dilations, group)


def _conv_transpose(op: Op, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    sides = x.dim() - 2
    if sides not in _TRANSPOSED:
        raise NotImplementedError(f"a transposed convolution over {sides} dimensions")
    kernel = op.integers("kernel_shape") or list(weight.shape[2:])
    strides = op.integers("strides") or [1] * sides
    dilations, extra = op.integers("dilations") or [1] * sides, op.integers("output_padding") or [0] * sides
    full = [
        (side - 1) * step + (width - 1) * gap + 1
        for side, step, width, gap in zip(x.shape[2:], strides, kernel, dilations, strict=True)
    ]
    begins, ends = _transposed_padding(op, full, extra, list(x.shape[2:]), strides)
    run, group = _TRANSPOSED[sides], op.integer("group", 1)
    grows = [after < max(step, gap) for after, step, gap in zip(extra, strides, dilations, strict=True)]
    if begins == ends and min(begins) >= 0 and all(grows):
        return run(x, weight, bias, strides, begins, extra, group, dilations)
    whole = run(x, weight, None, strides, 0, 0, group, dilations)
    around = [
        amount
        for begin, end, after in reversed([*zip(begins, ends, extra, strict=True)])
        for amount in (-begin, after - end)
    ]
    result = functional.pad(whole, around)
    return result if bias is None else result + bias.view(1, -1, *[1] * sides)


def _transposed_padding(
    op: Op, full: Sequence[int], extra: Sequence[int], sides: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """How much is cut from the full result, before and after each side."""
    count, auto = len(full), op.text("auto_pad", "NOTSET")
    pads, wanted = op.integers("pads") or [0] * 2 * count, op.integers("output_shape")
    if auto in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = [side * step for side, step in zip(sides, strides, strict=True)]
    if not wanted:
        return ([0] * count, [0] * count) if auto == "VALID" else (pads[:count], pads[count:])
    totals = [length + after - want for length, after, want in zip(full, extra, wanted[-count:], strict=True)]
    smaller, larger = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (smaller, larger) if auto == "SAME_UPPER" else (larger, smaller)


OPERATORS: Mapping[str, Operator] = {"Conv": conv, "ConvTranspose": _conv_transpose}
