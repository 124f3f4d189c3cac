"""Models that read a tensor value or a size in Python, which a tracing exporter bakes in."""

from __future__ import annotations

import data_dependent_part  # type: ignore[import-not-found]  # a sibling file, as in a user's project
import torch
from torch import Tensor, nn


class Naming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(16, 10)
        self.register_buffer("scale", torch.tensor(2.0))

    def named(self, vector: Tensor) -> Tensor:
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class OnMean(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        if vector.mean() > 7:  # here
            vector = vector - 7
        return self.named(vector)


class WhileLoud(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        while vector.abs().max() > 10:  # here
            vector = vector / 2
        return self.named(vector)


class SizeOfSum(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        count = 1 + int(vector.abs().sum()) % 8  # here
        return self.named(torch.cat([vector[:, :count] * 2, vector[:, count:]], 1))


class Item(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        peak = vector.abs().max().item()  # here
        return self.named(vector / (1 + peak))


class FloatScale(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        return self.named(vector * float(vector.amax()))  # here


class Sign(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        out = self.named(vector)
        return out if vector.sum() + 1e4 > 0 else -out  # here


class EarlyExit(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        out = self.named(vector)
        if bool((vector.abs() < 1e-2).all()):  # here
            return out * 0
        return out


class InAPart(Naming):
    def __init__(self) -> None:
        super().__init__()
        self.limit = data_dependent_part.Limit()

    def forward(self, vector: Tensor) -> Tensor:
        return self.named(self.limit(vector))


class OnTheSecond(Naming):
    def forward(self, vector: Tensor, gain: Tensor) -> Tensor:
        if gain.max() > 50:  # here
            gain = gain * 0 + 50
        return self.named(vector) * gain


class Listed(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        first = vector[0].tolist()[0]  # here
        return self.named(vector + first)


class Array(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        peak = vector.detach().numpy().max()  # here
        return self.named(vector / (1 + abs(float(peak))))


class Never(Naming):
    """Its branch is taken by no input that the trials generate."""

    def forward(self, vector: Tensor) -> Tensor:
        if (vector * 1.5).sum().sin() > 0.99999999:  # here
            vector = vector * 2
        return self.named(vector)


class Harmless(Naming):
    """Both branches compute the same outputs."""

    def forward(self, vector: Tensor) -> Tensor:
        if vector.mean() > 7:  # here
            vector = vector * 1.0
        return self.named(vector)


class Guarded(Naming):
    """Reads values only to raise an error."""

    def forward(self, vector: Tensor) -> Tensor:
        assert vector.abs().max() < 1e9  # here
        if torch.isnan(vector).any():  # here
            raise ValueError("no numbers")
        return self.named(vector)


class OfWeights(Naming):
    """Reads only its own weights, which are the same in every run."""

    def forward(self, vector: Tensor) -> Tensor:
        if self.get_buffer("scale") > 1:
            vector = vector * float(self.get_buffer("scale"))
        return self.named(vector)


class BySizes(Naming):
    """Reads only static sizes."""

    def forward(self, vector: Tensor) -> Tensor:
        assert vector.shape[1] == 16  # here
        if vector.shape[1] % 4 == 0:  # here
            vector = vector * 2
        return self.named(vector)


class BatchByLen(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        return self.named(vector + torch.ones(len(vector), 16))  # here


class LoopOverSize(nn.Module):
    """The number of iterations depends on the image height."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.see(image).mean((2, 3))
        for _ in range(image.shape[2] // 16):  # here
            features = features + 1
        return features  # type: ignore[no-any-return]  # a Module call


class ConstantOfSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        height = torch.tensor(image.shape[2])  # here
        return self.see(image).sum((2, 3)) / height  # type: ignore[no-any-return]  # a Module call


class Ragged(Naming):
    """Has a tensor whose size depends on input values."""

    def forward(self, vector: Tensor) -> Tensor:
        loud = vector[vector.abs() > 3]
        if loud.shape[0] > 12:  # here
            vector = vector * 3
        return self.named(vector)
