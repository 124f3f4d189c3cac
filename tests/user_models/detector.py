"""Detectors that select inside the graph: the best boxes of a grid, with many scores that are nearly equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES, CELL, PASSES = 5, 4, 8


class Detector(nn.Module):
    """The `top` best boxes of all cells, with `nms` without those that a better one overlaps.

    Returns boxes (corners in pixels), scores and labels, or all of them `joined`.
    """

    def __init__(self, seed: int = 0, top: int = 40, joined: bool = False, nms: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU()),
        )
        self.box, self.score = nn.Conv2d(32, 4, 1), nn.Conv2d(32, CLASSES, 1)
        self.top, self.joined, self.nms = top, joined, nms
        for weight in self.parameters():
            fan = weight[0].numel() if weight.dim() > 1 else 16
            weight.data = torch.randn(weight.shape, generator=generator) * (1.5 / fan) ** 0.5

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor] | Tensor:
        """Boxes (batch, top, 4), scores and labels (batch, top)."""
        features = self.body(image)
        rows, columns = torch.meshgrid(torch.arange(features.shape[2]), torch.arange(features.shape[3]), indexing="ij")
        cells = torch.stack([columns, rows], -1).reshape(-1, 2).to(image.dtype) * CELL + CELL / 2
        raw = self.box(features).flatten(2).transpose(1, 2)
        centres, sizes = cells + raw[..., :2] * CELL, torch.exp(raw[..., 2:].clamp(-1, 1)) * 3 * CELL
        boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], -1)
        scores, labels = torch.sigmoid(self.score(features).flatten(2).transpose(1, 2)).max(-1)
        if self.nms:
            scores = scores * _kept(boxes, scores, labels, self.nms).to(scores.dtype)
        best, index = scores.topk(self.top, dim=1)
        chosen, names = torch.gather(boxes, 1, index[..., None].expand(-1, -1, 4)), torch.gather(labels, 1, index)
        if self.joined:
            return torch.cat([chosen, best[..., None], names[..., None].to(chosen.dtype)], -1)
        return chosen, best, names


def _kept(boxes: Tensor, scores: Tensor, labels: Tensor, limit: float) -> Tensor:
    """Which boxes no better one that is kept overlaps by more than the limit, class by class.

    Each pass corrects what the pass before suppressed wrongly; after a few nothing changes (Cluster-NMS, Zheng et al.).
    """
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    overlap = shared / (areas[:, :, None] + areas[:, None] - shared)
    place = torch.arange(scores.shape[1])  # of equal scores the first is better
    better = (scores[:, None] > scores[:, :, None]) | (
        (scores[:, None] == scores[:, :, None]) & (place[None, None] < place[None, :, None])
    )
    suppresses = (overlap > limit) & better & (labels[:, :, None] == labels[:, None])
    kept = torch.ones_like(scores, dtype=torch.bool)
    for _ in range(PASSES):
        kept = ~(suppresses & kept[:, None]).any(-1)
    return kept


def separate() -> nn.Module:
    """A detector with three outputs."""
    return Detector()


def joined() -> nn.Module:
    """A detector with one output (batch, top, 6)."""
    return Detector(joined=True)


def suppressed() -> nn.Module:
    """A detector that suppresses overlapping boxes."""
    return Detector(nms=0.5)
