"""What a graph with Q/DQ nodes of E4M3 stands for, in plain NumPy, with rounding written down from the standard.

It shares no code with the product, and none with ml_dtypes: the numbers of E4M3 are listed by their definition.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

POSITIVE = np.array(
    [fraction * 2.0**-9 for fraction in range(8)]
    + [(8 + fraction) * 2.0 ** (power - 3) for power in range(-6, 9) for fraction in range(8)][:-1]  # the last is NaN
)
CODES = np.arange(len(POSITIVE))


def rounded(values: Array) -> Array:
    """The nearest numbers of E4M3, of two the one with an even code; 448 beyond 448, NaN for NaN. FP64."""
    exact = np.asarray(values, np.float64)
    size = np.where(np.isnan(exact), 0.0, np.minimum(np.abs(exact), POSITIVE[-1]))
    above = np.clip(np.searchsorted(POSITIVE, size), 1, len(POSITIVE) - 1)
    low, high = POSITIVE[above - 1], POSITIVE[above]
    up = (high - size < size - low) | ((high - size == size - low) & (CODES[above] % 2 == 0))
    return np.where(np.isnan(exact), np.nan, np.copysign(np.where(up, high, low), exact))


def quantised(values: Array, scale: np.floating[Any]) -> Array:
    """What QuantizeLinear gives: the quotient in FP32, also of FP16 numbers, rounded to E4M3."""
    with np.errstate(over="ignore", invalid="ignore"):
        return rounded(values.astype(np.float32) / np.float32(scale))


def convolution(
    codes: Array, weights: Array, stride: int = 1, pads: int = 0, dilation: int = 1, group: int = 1
) -> Array:
    """The sums of a two-dimensional convolution in FP64."""
    padded = np.pad(codes, ((0, 0), (0, 0), (pads, pads), (pads, pads)))
    outputs, inputs, *kernel = weights.shape
    sizes = [(padded.shape[2 + axis] - (kernel[axis] - 1) * dilation - 1) // stride + 1 for axis in (0, 1)]
    result = np.zeros((len(codes), outputs, *sizes))
    for channel, row, column in product(range(outputs), *map(range, sizes)):
        first = channel * group // outputs * inputs
        rows = row * stride + dilation * np.arange(kernel[0])
        columns = column * stride + dilation * np.arange(kernel[1])
        window = padded[:, first : first + inputs][:, :, rows][:, :, :, columns]
        result[:, channel, row, column] = (window * weights[channel]).sum((1, 2, 3))
    return result
