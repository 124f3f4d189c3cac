"""Models that take another branch at inputs that no golden sample of drawn cases holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branching(nn.Module):
    """One layer; where `other` says so, its answer is shifted."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 4)

    def other(self, sound: Tensor) -> bool:
        raise NotImplementedError

    def forward(self, sound: Tensor) -> Tensor:
        answer: Tensor = self.layer(sound.tanh())
        return answer + 1 if self.other(sound) else answer


class IfLoud(Branching):
    def other(self, sound: Tensor) -> bool:
        return bool(sound.abs().max() > 20)


class IfSilent(Branching):
    def other(self, sound: Tensor) -> bool:
        return not bool(sound.any())


class IfQuiet(Branching):
    def other(self, sound: Tensor) -> bool:
        return 0 < float(sound.abs().max()) < 0.01


class IfFlat(Branching):
    def other(self, sound: Tensor) -> bool:
        return float(sound.std()) < 1e-6 < float(sound.abs().max())


class IfPadded(Branching):
    def other(self, sound: Tensor) -> bool:
        return bool((sound[:, 8:] == 0).all()) and bool(sound.any())


class Never(Branching):
    def other(self, sound: Tensor) -> bool:
        return bool(sound.abs().max() > 1e6)


class Unsound(nn.Module):
    """Divides by the loudness, which silence has none of, and takes no input that is louder than 50."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 4)

    def forward(self, sound: Tensor) -> Tensor:
        if bool(sound.abs().max() > 50):
            raise ValueError("too loud")
        answer: Tensor = self.layer(sound / sound.abs().amax(1, keepdim=True))
        return answer
