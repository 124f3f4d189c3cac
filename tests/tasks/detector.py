"""A small one-stage detector without anchors: a grid of cells of 8 × 8 pixels, each with at most one object.

`heads` returns what each cell predicts, for non-maximum suppression outside of the graph. `detector` selects the best
boxes in the graph: a cell counts if none of its neighbours is more likely to hold the centre of an object.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = (128, 160)  # height and width of the input
STRIDE = 8
CLASSES = 10
TOP = 30


def _block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Grid(nn.Module):
    """What each cell predicts of an image (B, 3, H, W) with values from 0 to 1, with N cells in rows.

    `boxes` (B, N, 4) are the corners x1, y1, x2, y2 in pixels; `objects` (B, 1, H / 8, W / 8) are the logits that the
    centre of an object is there, `classes` (B, C, H / 8, W / 8) those of its class.
    """

    centres: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(3, 16, stride=2),
            _block(16, 24, stride=2),
            _block(24, 24),
            _block(24, 40, stride=2),
            _block(40, 40),
            _block(40, 40, dilation=2),
            _block(40, 40),
        )
        self.objects = nn.Conv2d(40, 1, 1)
        self.classes = nn.Conv2d(40, classes, 1)
        self.sides = nn.Conv2d(40, 4, 1)
        nn.init.constant_(self.objects.bias, -3.0)  # type: ignore[arg-type]  # most cells are empty
        rows, columns = (torch.arange(side // STRIDE) * STRIDE + STRIDE / 2 for side in SIZE)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        self.register_buffer("centres", torch.stack([x, y], -1).reshape(1, -1, 2), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(image)
        sides = functional.softplus(self.sides(features)).flatten(2).transpose(1, 2) * STRIDE
        boxes = torch.cat([self.centres - sides[..., :2], self.centres + sides[..., 2:]], -1)
        return boxes, self.objects(features), self.classes(features)


class Heads(nn.Module):
    """The boxes (B, N, 4) of all cells in pixels, and their scores (B, N, C) from 0 to 1."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        boxes, objects, classes = self.grid(image)
        scores = torch.sigmoid(objects) * torch.sigmoid(classes)
        return {"boxes": boxes, "scores": scores.flatten(2).transpose(1, 2)}


class Detector(nn.Module):
    """The TOP best boxes (B, K, 4) in pixels with their scores (B, K) from 0 to 1 and labels (B, K), best first."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        boxes, objects, classes = self.grid(image)
        peaks = objects == functional.max_pool2d(objects, 3, 1, 1)
        found = torch.sigmoid(objects) * torch.sigmoid(classes) * peaks
        scores, places = found.flatten(2).transpose(1, 2).flatten(1).topk(TOP, 1)
        cells = torch.div(places, classes.shape[1], rounding_mode="floor")
        best = boxes.gather(1, cells[..., None].expand(-1, -1, 4))
        return {"boxes": best, "scores": scores, "labels": places - cells * classes.shape[1]}


def heads(classes: int = CLASSES) -> nn.Module:
    """The detector without selection: all boxes with their scores."""
    return Heads(Grid(classes))


def detector(classes: int = CLASSES) -> nn.Module:
    """The detector with the selection of boxes in the graph."""
    return Detector(Grid(classes))
