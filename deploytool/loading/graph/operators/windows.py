"""The windows of convolutions and pools: strides, dilations and padding, explicit or automatic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from deploytool.loading.graph.op import Op


@dataclass(frozen=True)
class Window:
    """Windows over the sides of an input; each list has one number a side."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int]
    ends: list[int]
    ceil: bool

    @classmethod
    def of(cls, op: Op, sides: Sequence[int], kernel: Sequence[int]) -> Window:
        """The windows that a node's attributes describe, on an input with these sides."""
        count = len(sides)
        strides, dilations = op.integers("strides") or [1] * count, op.integers("dilations") or [1] * count
        pads, auto = op.integers("pads") or [0] * 2 * count, op.text("auto_pad", "NOTSET")
        begins, ends = pads[:count], pads[count:]
        if auto == "VALID":
            begins, ends = [0] * count, [0] * count
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            totals = [
                max((math.ceil(side / step) - 1) * step + (width - 1) * gap + 1 - side, 0)
                for side, step, width, gap in zip(sides, strides, kernel, dilations, strict=True)
            ]
            begins, ends = [total // 2 for total in totals], [total - total // 2 for total in totals]
            if auto == "SAME_LOWER":
                begins, ends = ends, begins
        ceil = op.flag("ceil_mode") and auto == "NOTSET"
        return cls(list(kernel), strides, dilations, begins, ends, ceil)

    def symmetric_padding(self) -> list[int] | None:
        """The padding of each side, if it is the same before and after it."""
        return self.begins if self.begins == self.ends else None

    def around(self) -> list[int]:
        """The padding as `functional.pad` takes it."""
        return [amount for pair in reversed([*zip(self.begins, self.ends, strict=True)]) for amount in pair]

    def spans(self) -> list[int]:
        """How many positions a window spans on each side."""
        return [(width - 1) * gap + 1 for width, gap in zip(self.kernel, self.dilations, strict=True)]

    def counts(self, sides: Sequence[int]) -> list[int]:
        """How many windows there are on each side; a window that begins in the padding after it is none."""
        counts = []
        numbers = zip(sides, self.strides, self.begins, self.ends, self.spans(), strict=True)
        for side, step, begin, end, span in numbers:
            room = side + begin + end - span
            count = (math.ceil(room / step) if self.ceil else room // step) + 1
            late = self.ceil and (count - 1) * step >= side + begin
            counts.append(count - 1 if late else count)
        return counts

    def filled(self, x: torch.Tensor, value: float) -> torch.Tensor:
        """The input padded with a value, so that exactly the windows fit."""
        amounts = []
        sides = list(x.shape[2:])
        numbers = zip(sides, self.counts(sides), self.strides, self.begins, self.spans(), strict=True)
        for side, count, step, begin, span in reversed([*numbers]):
            amounts += [begin, (count - 1) * step + span - side - begin]
        return functional.pad(x, amounts, value=value)

    def unfolded(self, x: torch.Tensor, value: float) -> torch.Tensor:
        """All windows of the padded input: batch × channels × windows of each side × positions of each side."""
        windows = self.filled(x, value)
        for dim, (step, span) in enumerate(zip(self.strides, self.spans(), strict=True), 2):
            windows = windows.unfold(dim, span, step)
        for dim, gap in enumerate(self.dilations, 2 + len(self.dilations)):
            if gap > 1:
                windows = windows.index_select(dim, torch.arange(0, windows.shape[dim], gap, device=x.device))
        return windows
