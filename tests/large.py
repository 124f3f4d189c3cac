"""A small model with weights that go to a side file if the limit of a graph is lowered to `LIMIT`."""

from __future__ import annotations

from torch import Tensor, nn

LIMIT = 8192  # bytes: less than the model's weights in FP16


class Large(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layers = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(self.stem(image).mean((2, 3)))  # type: ignore[no-any-return]  # a Module call


def large() -> nn.Module:
    return Large()
