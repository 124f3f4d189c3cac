"""The expected values of a tensor, the module that computes them, and the noise to allow for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

_EPSILON32, _EPSILON16 = 2.0**-23, 2.0**-10  # the spacing of numbers next to 1: the least noise that is assumed
_FLOOR32, _FLOOR16 = 16.0, 1.5  # the noise floor in units of the noise; correct graphs of the zoo reach 6 and 1.1
_MIN_FLOOR16 = 3 * _EPSILON16
_SAMPLES = 256  # values that suffice to tell most tensors apart
_INFINITE_ERROR = float(np.finfo(np.float64).max)  # stands for infinity and NaN, which JSON does not have


@dataclass(frozen=True)
class ReferenceTensor:
    """A tensor of the source model or of the previous graph; `tensor` is empty for the result of a call in the model.

    `noise32` and `noise16` are the relative errors that FP32 and FP16 arithmetic cause there in the source model;
    `sources` are the tensors it is computed from in the previous graph.
    """

    tensor: str
    module: str
    values: npt.NDArray[Any]
    noise32: float
    noise16: float
    sources: tuple[str, ...] = ()

    def floor(self, *, half: bool) -> float:
        """The noise floor: the largest relative error that counts as noise, in an FP16 graph (`half`) or in FP32."""
        if half:
            return max(_FLOOR16 * self.noise16, _MIN_FLOOR16)
        return _FLOOR32 * max(self.noise32, _EPSILON32)

    def sampled_error(self, values: npt.NDArray[Any]) -> float:
        """The relative error of a sample of `values`: a lower bound of the error of all of them."""
        step = max(1, values.size // _SAMPLES)
        difference = values.reshape(-1)[::step] - self.values.reshape(-1)[::step].astype(np.float64)
        return float(np.abs(difference).max(initial=0.0)) / self._scale

    @cached_property
    def _scale(self) -> float:
        return float(np.abs(self.values).max(initial=0.0)) or 1.0


def relative_error(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest absolute error over the largest absolute expected value, as in the report."""
    exact = np.asarray(expected, np.float64)
    error = np.abs(np.asarray(actual, np.float64) - exact).max(initial=0.0)
    return float(error / (np.abs(exact).max(initial=0.0) or 1.0)) if np.isfinite(error) else _INFINITE_ERROR
