"""Models that are no pure functions of their inputs: they write, keep state, draw, or mix the cases of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_calls: list[int] = []


class Naming(nn.Module):
    """One linear layer, the base of the models below."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(16, 4)

    def forward(self, vector: Tensor) -> Any:
        return self.name(vector)


class Subtracting(Naming):
    def forward(self, vector: Tensor) -> Any:
        return self.name(vector.sub_(0.5).mul_(2))


class Masking(Naming):
    def forward(self, vector: Tensor) -> Any:
        vector[:, 3:6] = 0
        return self.name(vector)


class ThroughNumpy(Naming):
    def forward(self, vector: Tensor) -> Any:
        vector.numpy()[:, 0] = 7
        return self.name(vector)


class Counting(Naming):
    """Counts its calls; the counter does not affect the output."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, vector: Tensor) -> Any:
        self.get_buffer("count").add_(1)
        return self.name(vector)


class Steps(Naming):
    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def forward(self, vector: Tensor) -> Any:
        self.step += 1
        return self.name(vector)


class Logging(Naming):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def forward(self, vector: Tensor) -> Any:
        self.seen.append(0.5)
        return self.name(vector)


class Caching(Naming):
    """Caches a table in the first call; its state no longer changes after that."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None

    def forward(self, vector: Tensor) -> Any:
        if self.table is None:
            self.table = torch.arange(16) / 16
        return self.name(vector + self.table)


class Averaging(Naming):
    """Its output depends on a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, vector: Tensor) -> Any:
        self.mean = 0.9 * self.get_buffer("mean") + 0.1 * vector.mean(0)
        return self.name(vector - self.mean)


class Recurring(Naming):
    """Keeps a recurrent state in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.state = nn.GRUCell(16, 16), None

    def forward(self, vector: Tensor) -> Any:
        self.state = self.cell(vector, self.state)
        return self.name(self.state)


class Alternating(Naming):
    def __init__(self) -> None:
        super().__init__()
        self.turn = 0

    def forward(self, vector: Tensor) -> Any:
        self.turn += 1
        return self.name(vector) * (-1) ** self.turn


class Initialising(Naming):
    """Initialises its scale from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.zeros(16))

    def forward(self, vector: Tensor) -> Any:
        scale = self.get_buffer("scale")
        if not scale.any():
            scale.copy_(1 / vector.std())
        return self.name(vector * scale)


class Remembering(Naming):
    """Keeps the shape of the first batch and fails for other shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, Tensor] = {}

    def forward(self, vector: Tensor) -> Any:
        self.first.setdefault("shape", torch.zeros_like(vector))
        return self.name(vector + self.first["shape"])


class OutsideItself(Naming):
    def forward(self, vector: Tensor) -> Any:
        _calls.append(1)
        return self.name(vector) * len(_calls)


class Dropping(Naming):
    def forward(self, vector: Tensor) -> Any:
        return self.name(nn.functional.dropout(vector))


class Statistics(Naming):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, vector: Tensor) -> Any:
        return self.norm(self.name(vector))


class MaxOfBatch(Naming):
    def forward(self, vector: Tensor) -> Any:
        return self.name(vector / vector.abs().max())


class SoftmaxOverBatch(Naming):
    def forward(self, vector: Tensor) -> Any:
        return self.name(vector).softmax(0)


class SlightlyMixing(Naming):
    """Mixes cases by less than FP32 rounding errors; only FP64 shows it."""

    def forward(self, vector: Tensor) -> Any:
        return self.name(vector + 1e-5 * vector.mean(0))


class Ranking(Naming):
    def forward(self, vector: Tensor) -> Any:
        return self.name(vector).argsort(0).argsort(0)


class SingleCase(Naming):
    def forward(self, vector: Tensor) -> Any:
        assert vector.shape[0] == 1, "one at a time"
        return self.name(vector)


class SingleCaseByShape(Naming):
    def forward(self, vector: Tensor) -> Any:
        return self.name(vector.reshape(1, 16))


class BatchOfFour(Naming):
    def forward(self, vector: Tensor) -> Any:
        return self.name(vector.reshape(4, 16)).softmax(0)


class Unrepeatable(Naming):
    """Draws an attribute from a source that ignores seeds."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.tensor([float(int.from_bytes(__import__("os").urandom(2), "big"))])

    def forward(self, vector: Tensor) -> Any:
        return self.name(vector + self.shift)
