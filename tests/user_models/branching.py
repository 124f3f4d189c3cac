"""Models with branches that no randomly drawn golden case takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branching(nn.Module):
    """One layer; its output is shifted where `takes_branch` is true."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 4)

    def takes_branch(self, sound: Tensor) -> bool:
        raise NotImplementedError

    def forward(self, sound: Tensor) -> Tensor:
        output: Tensor = self.layer(sound.tanh())
        return output + 1 if self.takes_branch(sound) else output


class IfLoud(Branching):
    def takes_branch(self, sound: Tensor) -> bool:
        return bool(sound.abs().max() > 20)


class IfSilent(Branching):
    def takes_branch(self, sound: Tensor) -> bool:
        return not bool(sound.any())


class IfQuiet(Branching):
    def takes_branch(self, sound: Tensor) -> bool:
        return 0 < float(sound.abs().max()) < 0.01


class IfFlat(Branching):
    def takes_branch(self, sound: Tensor) -> bool:
        return float(sound.std()) < 1e-6 < float(sound.abs().max())


class IfPadded(Branching):
    def takes_branch(self, sound: Tensor) -> bool:
        return bool((sound[:, 8:] == 0).all()) and bool(sound.any())


class Never(Branching):
    def takes_branch(self, sound: Tensor) -> bool:
        return bool(sound.abs().max() > 1e6)


class Unsound(nn.Module):
    """Divides by the maximum, which fails for silence, and raises for inputs above 50."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 4)

    def forward(self, sound: Tensor) -> Tensor:
        if bool(sound.abs().max() > 50):
            raise ValueError("too loud")
        output: Tensor = self.layer(sound / sound.abs().amax(1, keepdim=True))
        return output
