"""Models with lower bounds and epsilons that FP16 cannot represent."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 16


class Guarded(nn.Module):
    """A linear layer, an operation with a small constant, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 4)

    def guarded(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, sound: Tensor) -> Tensor:
        output: Tensor = self.last(self.guarded(self.first(sound)))
        return output


class LogOfClamped(Guarded):
    def guarded(self, x: Tensor) -> Tensor:
        return x.square().clamp(min=1e-10).log()


class Decibel(Guarded):
    def guarded(self, x: Tensor) -> Tensor:
        power = x.square()
        return 10 * torch.log10(torch.where(power > 1e-10, power, torch.full_like(power, 1e-10)))


class LogOfMore(Guarded):
    def guarded(self, x: Tensor) -> Tensor:
        return (x.abs() + 1e-8).log()


class Normalised(Guarded):
    def guarded(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1)


class DividedByNorm(Guarded):
    def guarded(self, x: Tensor) -> Tensor:
        length: Tensor = x.norm(dim=1, keepdim=True)
        return x / (length + 1e-12)


class Standardised(Guarded):
    def guarded(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-7).sqrt()


class InverseRoot(Guarded):
    def guarded(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class GeneralisedMean(Guarded):
    def guarded(self, x: Tensor) -> Tensor:
        return x + x.clamp(min=1e-6).pow(3).mean(1, keepdim=True).pow(1 / 3)


class Similar(Guarded):
    def guarded(self, x: Tensor) -> Tensor:
        return x + functional.cosine_similarity(x, x.roll(1, 1), dim=1, eps=1e-8)[:, None]


class SmallVariance(Guarded):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH, eps=1e-12)
        self.norm.running_var = torch.full((WIDTH,), 1e-9)
        self.norm.weight.data.fill_(1e-4)

    def guarded(self, x: Tensor) -> Tensor:
        return self.norm(x.relu().unsqueeze(2)).squeeze(2)  # type: ignore[no-any-return]  # a Module call


class LayerNorm(Guarded):
    def guarded(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (WIDTH,), eps=1e-12)


class UsualEpsilon(Guarded):
    """FP16 represents its epsilon well enough: nothing must stay in FP32."""

    def guarded(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt()


class Learned(Guarded):
    """Its lower bound is a vector with a different value for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.floor = nn.Parameter(torch.linspace(1e-10, 2e-10, WIDTH))

    def guarded(self, x: Tensor) -> Tensor:
        return (x.square() + self.floor).log()
