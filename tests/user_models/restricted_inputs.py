"""Correct models that fail in one of the runs that measure numerical noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Viewed(nn.Module):
    """Flattens with view(), which fails for channels-last inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.name = nn.Conv2d(3, 8, 3, 2), nn.Linear(8 * 15 * 15, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.name(functional.relu(self.see(x)).view(x.size(0), -1))  # type: ignore[no-any-return]  # a Module call


class Strided(Viewed):
    """Checks the strides of its input."""

    def forward(self, x: Tensor) -> Tensor:
        if x.stride()[-1] != 1:
            raise ValueError("rows must lie together")
        return self.name(functional.relu(self.see(x)).flatten(1))  # type: ignore[no-any-return]  # a Module call


class Paired(Viewed):
    """Fails for a batch of one image."""

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) > 1
        return self.name(functional.relu(self.see(x)).flatten(1))  # type: ignore[no-any-return]  # a Module call


class Guarded(Viewed):
    """Fails if its weights were changed."""

    def __init__(self) -> None:
        super().__init__()
        self.total = float(self.see.weight.detach().sum(dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if self.total and abs(float(self.see.weight.sum(dtype=torch.float64)) - self.total) > 0:
            raise RuntimeError("these are not the weights")
        return self.name(functional.relu(self.see(x)).flatten(1))  # type: ignore[no-any-return]  # a Module call


class Bounded(Viewed):
    """Fails for values outside of its range, even by a rounding error."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.abs().amax()) > 1:
            raise ValueError("out of range")
        return self.name(functional.relu(self.see(x)).flatten(1))  # type: ignore[no-any-return]  # a Module call
