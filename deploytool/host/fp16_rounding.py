"""The limits of FP16 (IEEE 754 binary16), and the rules that round NumPy arrays to it.

Inputs and intermediate values are rounded as hardware does: values beyond the range become infinite, values below the
smallest subnormal become zero. Weights of a planted fault saturate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the limits are also used where numpy must not be imported
    import numpy as np
    import numpy.typing as npt

LARGEST = 65504.0  # the largest finite number
SMALLEST_NORMAL = 2.0**-14  # the smallest number with all 11 significant bits
SMALLEST = 2.0**-24  # the smallest subnormal


def nearest(values: npt.ArrayLike) -> npt.NDArray[np.float16]:
    """The nearest FP16 numbers, ties to even; overflow gives infinity, underflow gives zero."""
    import numpy as np

    return np.asarray(values).astype(np.float16)


def nearest_inputs(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The inputs of an artifact that takes FP16: FP32 arrays are rounded, other arrays are unchanged."""
    return {name: nearest(array) if array.dtype == "float32" else array for name, array in arrays.items()}


def saturate(values: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """The nearest FP16 numbers within ±65504, also for infinite values; underflow gives zero."""
    return nearest(values.clip(-LARGEST, LARGEST))
