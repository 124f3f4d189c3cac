"""The numbers of FP8 in the form E4M3: 4 bits of exponent, 3 of fraction, no infinity.

They end at 448; below 2⁻⁶ they are subnormal, multiples of 2⁻⁹. Rounding to them is relative, by 2⁻⁴ at most, so a
scale need not fit the values closely: 15 binades of normal numbers hold small values as exactly as large ones.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

LARGEST, SMALLEST = 448.0, 2.0**-9
STEP = 32.0  # between the largest numbers
DTYPE = np.dtype(ml_dtypes.float8_e4m3fn)


def nearest(values: npt.ArrayLike) -> npt.NDArray[Any]:
    """The nearest numbers, ties to even, as ONNX's QuantizeLinear gives them: beyond 448 is 448, and NaN stays NaN."""
    exact = np.asarray(values)
    return exact.clip(-LARGEST, LARGEST).astype(DTYPE)
