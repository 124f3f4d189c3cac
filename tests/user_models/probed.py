"""Sound models that cannot take one or another of the runs that measure noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Viewed(nn.Module):
    """Flattens by view, which channels last forbid."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.name = nn.Conv2d(3, 8, 3, 2), nn.Linear(8 * 15 * 15, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.name(functional.relu(self.see(x)).view(x.size(0), -1))  # type: ignore[no-any-return]  # a Module call


class Strided(Viewed):
    """Asks for the strides of what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        if x.stride()[-1] != 1:
            raise ValueError("rows must lie together")
        return self.name(functional.relu(self.see(x)).flatten(1))  # type: ignore[no-any-return]  # a Module call


class Paired(Viewed):
    """Takes no picture alone."""

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) > 1
        return self.name(functional.relu(self.see(x)).flatten(1))  # type: ignore[no-any-return]  # a Module call


class Guarded(Viewed):
    """Refuses weights that are not its own."""

    def __init__(self) -> None:
        super().__init__()
        self.total = float(self.see.weight.detach().sum(dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if self.total and abs(float(self.see.weight.sum(dtype=torch.float64)) - self.total) > 0:
            raise RuntimeError("these are not the weights")
        return self.name(functional.relu(self.see(x)).flatten(1))  # type: ignore[no-any-return]  # a Module call


class Bounded(Viewed):
    """Takes no number that lies outside of its range, even by the rounding of one."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.abs().amax()) > 1:
            raise ValueError("out of range")
        return self.name(functional.relu(self.see(x)).flatten(1))  # type: ignore[no-any-return]  # a Module call
