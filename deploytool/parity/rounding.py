"""Rounds the results of torch calls as arithmetic in FP32, FP16 or BF16 does: to the nearest number, or at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

_STEP32 = 2.0**-23  # relative distance of neighbouring FP32 numbers
_SLACK = 4096  # random numbers beyond those of the largest tensor

Rounding = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class NarrowRounding:
    """How results are rounded to a type: to nearest, and at random with a seed. `title` names the type."""

    title: str
    nearest: Rounding
    stochastic: Callable[[int], Rounding]


def stochastic_fp32(seed: int) -> Rounding:
    """Moves to a neighbouring FP32 number at random, or not at all."""
    noise = _RandomNumbers(seed, lambda size, generator: (torch.rand(size, generator=generator) - 0.5) * 2 * _STEP32)
    return lambda value: torch.addcmul(value, value, noise(value.shape))


def _nearest(dtype: torch.dtype) -> Rounding:
    """Rounds to the nearest number of a type, with its subnormals, underflow and overflow."""
    return lambda value: value.to(dtype).float()


def _stochastic(lost_bits: int) -> Callable[[int], Rounding]:
    """Rounds up or down with a probability by distance to numbers without so many bits of FP32's mantissa.

    The range stays FP32's.
    """

    def seeded(seed: int) -> Rounding:
        noise = _RandomNumbers(
            seed, lambda size, generator: torch.randint(1 << lost_bits, (size,), generator=generator, dtype=torch.int32)
        )

        def rounding(value: torch.Tensor) -> torch.Tensor:
            bits = value.contiguous().view(torch.int32) + noise(value.shape)
            return (bits >> lost_bits << lost_bits).view(torch.float32)

        return rounding

    return seeded


class _RandomNumbers:
    """Random numbers, drawn once and reused from a random offset: drawing them for every call would take too long."""

    def __init__(self, seed: int, draw: Callable[[int, torch.Generator], torch.Tensor]) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._draw = draw
        self._drawn = draw(_SLACK, self._generator)

    def __call__(self, shape: torch.Size) -> torch.Tensor:
        if self._drawn.numel() < shape.numel() + _SLACK:
            self._drawn = self._draw(shape.numel() + _SLACK, self._generator)
        start = int(torch.randint(_SLACK, (), generator=self._generator))
        return self._drawn[start : start + shape.numel()].view(shape)


FP16 = NarrowRounding("FP16", _nearest(torch.float16), _stochastic(lost_bits=13))
BF16 = NarrowRounding("BF16", _nearest(torch.bfloat16), _stochastic(lost_bits=16))
