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


def detector(apart: bool = False) -> nn.Module:
    """Boxes in pixels and scores that FP16 spoils: their length is below its smallest number."""
    torch.manual_seed(0)
    return Detector(apart)


class Detector(nn.Module):
    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.apart = apart
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.SiLU())
        self.box, self.word = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 32, 1, bias=False)
        self.classes = nn.Parameter(nn.functional.normalize(torch.randn(6, 32), dim=1))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        stem = self.stem(image)
        boxes = nn.functional.softplus(self.box(stem)) * 300
        words = self.word(stem) * 3e-4
        words = words / (words.pow(2).sum(1, keepdim=True) + 1e-7).sqrt()
        scores = (torch.einsum("bchw,kc->bkhw", words, self.classes) * 8 - 2).sigmoid()
        return (boxes, scores) if self.apart else torch.cat([boxes, scores], 1)
