"""A text line recogniser: convolutional features, then a bidirectional LSTM along the width."""

from __future__ import annotations

from torch import Tensor, nn


class Reader(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.read = nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.say = nn.Linear(48, classes)

    def forward(self, image: Tensor) -> Tensor:
        columns = self.see(image).mean(dim=2).transpose(1, 2)
        read, _ = self.read(columns)
        return self.say(read[:, -1])  # type: ignore[no-any-return]  # a Module call
