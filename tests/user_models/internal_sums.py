"""Norms, means and activations written as several operators whose intermediate results leave FP16's range."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 32


class Inner(nn.Module):
    """A linear layer, an operation on its output times `loud`, and a linear layer."""

    loud = 2000.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def inner(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.last(self.inner(self.first(tokens) * self.loud))
        return output


class RootMeanSquare(Inner):
    """As in T5 and Llama: the squares of an outlier exceed 65504."""

    def inner(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


class Centred(Inner):
    def inner(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred * centred).mean(-1, keepdim=True).add(1e-5).sqrt()


class MeanOfSquares(Inner):
    """The variance as E[x²] − E[x]²."""

    loud = 500.0

    def inner(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        return (x - mean) / ((x * x).mean(-1, keepdim=True) - mean * mean + 1e-5).sqrt()


class Length(Inner):
    """Without an epsilon: ReduceL2 alone, which is a product, a sum and a root in TensorRT."""

    def inner(self, x: Tensor) -> Tensor:
        length: Tensor = x.norm(dim=-1, keepdim=True)
        return x / length


class Deviation(Inner):
    def inner(self, x: Tensor) -> Tensor:
        return x / 2000 + x.std(-1, keepdim=True) / 2000


class Generalised(Inner):
    loud = 200.0

    def inner(self, x: Tensor) -> Tensor:
        return x / 200 + x.relu().pow(3).mean(-1, keepdim=True).pow(1 / 3) / 200


class HandMadeSoftmax(Inner):
    loud = 8.0

    def inner(self, x: Tensor) -> Tensor:
        exponentials = (x + 8).exp()
        return exponentials / exponentials.sum(-1, keepdim=True)


class Probabilities(Inner):
    """Logarithms of probabilities that FP16 rounds to zero."""

    loud = 40.0

    def inner(self, x: Tensor) -> Tensor:
        return x.log_softmax(-1)


class Averaged(Inner):
    """A sum of 96 tokens, divided by their number."""

    def inner(self, x: Tensor) -> Tensor:
        return x / 2000 + x.abs().sum(1, keepdim=True) / x.shape[1] / 2000


class Rotated(Inner):
    """Rotary positions of a dynamic length."""

    loud = 1.0

    def inner(self, x: Tensor) -> Tensor:
        frequencies = 10000 ** (-torch.arange(0, WIDTH // 2, device=x.device) / (WIDTH // 2))
        angles = torch.arange(x.shape[1], device=x.device)[:, None].to(x.dtype) * 7 * frequencies.to(x.dtype)
        left, right = x.chunk(2, -1)
        return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], -1)


class Usual(Inner):
    """Operators that have their sums in FP32 by themselves, and small activations."""

    loud = 1e-3

    def inner(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (WIDTH,), eps=1e-12)


class Groups(Inner):
    def inner(self, x: Tensor) -> Tensor:
        return functional.group_norm(x.transpose(1, 2), 4).transpose(1, 2)


class Wide(Inner):
    """A softmax over 4096 values, and the mean of 393,216."""

    loud = 4.0

    def __init__(self) -> None:
        super().__init__()
        self.up, self.last = nn.Linear(WIDTH, 4096), nn.Linear(4096, 4)

    def inner(self, x: Tensor) -> Tensor:
        wide: Tensor = self.up(x)
        return wide.softmax(-1) * 100 + wide.abs().mean((1, 2), keepdim=True)


class GeluOfCubes(Inner):
    """GELU by tanh as in GPT-2: the cube exceeds 65504, and the tanh of infinity is 1."""

    loud = 300.0

    def inner(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class Gelu(Inner):
    loud = 300.0

    def inner(self, x: Tensor) -> Tensor:
        return functional.gelu(x)


class Gated(Inner):
    """A product that overflows, and that nothing saturates."""

    def inner(self, x: Tensor) -> Tensor:
        return functional.silu(x) * x * 1e-4
