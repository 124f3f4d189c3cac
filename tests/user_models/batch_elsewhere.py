"""A model with outputs of every kind: the batch first, second or nowhere, for the tests of output axes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mixed(nn.Module):
    """Returns scores of each case, a result with the time before the batch, and three without one answer a case."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 5)
        self.register_buffer("anchors", torch.arange(8.0).reshape(2, 4))

    def forward(self, vector: Tensor) -> dict[str, Tensor]:
        scores = self.layer(vector)
        times = torch.stack([scores, scores.tanh(), scores.sigmoid()])
        anchors: Tensor = self.anchors  # type: ignore[assignment]  # nn.Module declares tensors and modules
        shared = {"mean": scores.mean(0), "pairs": scores @ scores.T, "anchors": anchors * 2}
        return {"scores": scores, "times": times, **shared}


class TimesOnly(Mixed):
    """Returns the output with the time first alone, without a key."""

    def forward(self, vector: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(vector)["times"]
