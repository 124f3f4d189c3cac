"""The floating-point types narrower than FP32 that a graph can compute in: their limits, and how numbers become them.

BF16 has the exponent of FP32 and 8 significant bits, FP16 has 11 and ends at 65504.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from deploytool.host import fp16_rounding

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class NarrowFloat:
    """A type of 16 bits: its name, its ONNX element type and its name in ONNX's schemas.

    `largest` is its largest finite number, `smallest` its smallest subnormal. `nearest` rounds to the nearest number,
    ties to even: overflow gives infinity, underflow gives zero.
    """

    title: str
    element_type: int
    schema_name: str
    largest: float
    smallest: float
    nearest: Callable[[npt.ArrayLike], Array]

    @property
    def suffix(self) -> str:
        """The end of the names of casts to this type."""
        return self.title.lower()

    def round_weights(self, values: Array) -> Array:
        """The form of weights in this type: finite values stay finite, and non-zero values stay non-zero.

        Infinite values and NaN are unchanged.
        """
        finite = np.where(np.isfinite(values), values.clip(-self.largest, self.largest), values)
        with np.errstate(under="ignore"):
            rounded = self.nearest(finite)
        smallest = self.nearest(np.copysign(self.smallest, values))
        kept: Array = np.where((rounded == 0) & (values != 0), smallest, rounded)
        return kept.reshape(values.shape)


def _nearest_bf16(values: npt.ArrayLike) -> Array:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16)


FP16 = NarrowFloat(
    title="FP16",
    element_type=TensorProto.FLOAT16,
    schema_name="tensor(float16)",
    largest=fp16_rounding.LARGEST,
    smallest=fp16_rounding.SMALLEST,
    nearest=fp16_rounding.nearest,
)
BF16 = NarrowFloat(
    title="BF16",
    element_type=TensorProto.BFLOAT16,
    schema_name="tensor(bfloat16)",
    largest=(2 - 2.0**-7) * 2.0**127,
    smallest=2.0**-133,
    nearest=_nearest_bf16,
)
BY_ELEMENT_TYPE: Mapping[int, NarrowFloat] = {narrow.element_type: narrow for narrow in (FP16, BF16)}
