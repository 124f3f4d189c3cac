"""Models whose submodules do not receive the batch exactly once as the first dimension, for tests of hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Windows(nn.Module):
    """Its inner layer receives batch × windows cases."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.name = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, vector: Tensor) -> Any:
        parts = self.inner(vector.reshape(-1, 4))
        return self.name(parts.reshape(-1, 4, 4).amax(1))


class Positions(nn.Module):
    """A table of eight positions, the same number as cases per batch."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.name = nn.Embedding(8, 2), nn.Linear(16, 3)

    def forward(self, vector: Tensor) -> Any:
        return self.name(vector + self.place(torch.arange(8)).flatten())


class Shared(nn.Module):
    """Calls one layer three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, vector: Tensor) -> Any:
        return self.layer(self.layer(self.layer(vector)).relu())


class NewNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = parametrizations.weight_norm(nn.Linear(16, 4))

    def forward(self, vector: Tensor) -> Any:
        return self.layer(vector).relu()


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = parametrizations.spectral_norm(nn.Linear(16, 4))
        self.name = nn.Linear(4, 3)

    def forward(self, vector: Tensor) -> Any:
        return self.name(self.layer(vector))


class Sequence(nn.Module):
    """An LSTM, which returns a tuple with the time as first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.LSTM(4, 5)

    def forward(self, vector: Tensor) -> Any:
        made, _ = self.read(vector.reshape(-1, 4, 4).transpose(0, 1))
        return made[-1]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, vector: Tensor) -> Any:
        return self.body(vector.reshape(-1, 4, 4)).mean(1)


class Idle(nn.Module):
    """A submodule that is never called, and one that is called for some inputs only."""

    def __init__(self) -> None:
        super().__init__()
        self.never, self.name, self.seldom = nn.Linear(3, 3), nn.Linear(16, 4), nn.Identity()

    def forward(self, vector: Tensor) -> Any:
        made = self.name(vector)
        return self.seldom(made) if len(vector) > 1 else made


class Functional(nn.Module):
    """Its submodule is never called and only stores weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, vector: Tensor) -> Any:
        return vector @ self.layer.weight.T


class Whole(nn.Linear):
    """A model without submodules."""

    def __init__(self) -> None:
        super().__init__(16, 4)
