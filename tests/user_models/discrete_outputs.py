"""Models with discrete outputs: class indices, positions, masks, grey levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Labels(nn.Module):
    """The output selected by `kind`, computed from a map of seven scores."""

    def __init__(self, kind: str = "map") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.stem, self.scores = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 7, 1)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        scores: Tensor = self.scores(functional.relu(self.stem(image)))
        if self.kind == "map":
            return functional.interpolate(scores, scale_factor=2.0, mode="bilinear", align_corners=False).argmax(1)
        if self.kind == "map of floats":
            return scores.argmax(1).float()
        if self.kind == "class":
            return scores.amax((2, 3)).argmax(1)
        if self.kind == "mask":
            return scores > 0
        if self.kind == "best":
            best, indices = scores.flatten(1).topk(20)
            return best, indices
        if self.kind == "levels":
            return (scores.sigmoid() * 255).round().clamp(0, 255).to(torch.uint8)
        if self.kind == "boxes":
            best, classes = scores.flatten(2).max(1)
            return torch.stack([best * 100, classes.float()], 1)
        return (image > 0).flatten(1).sum(1) * 3 + 1  # a count, which is exact


def count() -> nn.Module:
    return Labels("count")
