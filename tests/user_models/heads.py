"""Several heads with scales of their own: as one joined output, or apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Heads(nn.Module):
    """Heads of `sizes` channels, each times its scale, along axis 1 of maps, rows or vectors, or along the last axis.

    With `mark` what is negative in the first head becomes that value instead.
    """

    def __init__(self, sizes: str, scales: str, form: str = "maps", mark: float = 0.0, apart: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scales, self.form, self.mark, self.apart = [float(one) for one in scales.split()], form, mark, apart
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.heads = nn.ModuleList(nn.Conv2d(16, int(size), 1) for size in sizes.split())

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        stem = self.stem(image)
        made = [head(stem) * scale for head, scale in zip(self.heads, self.scales, strict=True)]
        if self.mark:
            made[0] = torch.where(made[0] > 0, made[0], torch.full_like(made[0], self.mark))
        if self.apart:
            return tuple(made)
        joined = torch.cat(made, 1)
        if self.form == "vectors":
            return joined.mean((2, 3))
        if self.form == "maps":
            return joined
        return joined.flatten(2) if self.form == "rows" else joined.flatten(2).transpose(1, 2)
