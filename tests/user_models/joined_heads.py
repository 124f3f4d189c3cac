"""Several heads with different scales, as one concatenated output or as separate outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Heads(nn.Module):
    """Heads of `sizes` channels, each multiplied by its scale.

    form: `maps`, `rows` or `vectors` with channels along axis 1, or `columns` with channels along the last axis.
    mark: if not 0, replaces the negative values of the first head. separate: returns one output for each head.
    """

    def __init__(self, sizes: str, scales: str, form: str = "maps", mark: float = 0.0, separate: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scales, self.form, self.mark, self.separate = (
            [float(scale) for scale in scales.split()],
            form,
            mark,
            separate,
        )
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.heads = nn.ModuleList(nn.Conv2d(16, int(size), 1) for size in sizes.split())

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        stem = self.stem(image)
        outputs = [head(stem) * scale for head, scale in zip(self.heads, self.scales, strict=True)]
        if self.mark:
            outputs[0] = torch.where(outputs[0] > 0, outputs[0], torch.full_like(outputs[0], self.mark))
        if self.separate:
            return tuple(outputs)
        joined = torch.cat(outputs, 1)
        if self.form == "vectors":
            return joined.mean((2, 3))
        if self.form == "maps":
            return joined
        return joined.flatten(2) if self.form == "rows" else joined.flatten(2).transpose(1, 2)
