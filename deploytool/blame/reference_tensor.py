"""A known tensor: what its values should be, which module makes them, and how much noise is natural there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

_ROUNDING32, _ROUNDING16 = 2.0**-23, 2.0**-10  # next to one, numbers lie that far apart: no noise counts for less
_TIMES32, _TIMES16 = 16.0, 1.5  # the floor in units of the noise; sound graphs of the zoo reach 6 and 1.1
_LEAST16 = 3 * _ROUNDING16  # of a floor in FP16
_FEW = 256  # values that tell most tensors apart
_WORST = float(np.finfo(np.float64).max)  # the error of what is no number: JSON has no infinity


@dataclass(frozen=True)
class ReferenceTensor:
    """A tensor of the source model, or of the graph before; what a call of the source makes has no name.

    `noise32` and `noise16` are the errors that FP32 and FP16 arithmetic make there in the source model itself;
    `sources` are the tensors it is made from in the graph before.
    """

    tensor: str
    module: str
    values: npt.NDArray[Any]
    noise32: float
    noise16: float
    sources: tuple[str, ...] = ()

    def floor(self, *, half: bool) -> float:
        """The largest error that still counts as noise, in an FP16 graph or in one of FP32."""
        if half:
            return max(_TIMES16 * self.noise16, _LEAST16)
        return _TIMES32 * max(self.noise32, _ROUNDING32)

    def apart(self, values: npt.NDArray[Any]) -> float:
        """How far a few of `values` are from these: never more than the error of all."""
        step = max(1, values.size // _FEW)
        difference = values.reshape(-1)[::step] - self.values.reshape(-1)[::step].astype(np.float64)
        return float(np.abs(difference).max(initial=0.0)) / self._scale

    @cached_property
    def _scale(self) -> float:
        return float(np.abs(self.values).max(initial=0.0)) or 1.0


def relative_error(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest absolute error over the largest absolute expected value, as in the parity report."""
    exact = np.asarray(expected, np.float64)
    apart = np.abs(np.asarray(got, np.float64) - exact).max(initial=0.0)
    return float(apart / (np.abs(exact).max(initial=0.0) or 1.0)) if np.isfinite(apart) else _WORST
