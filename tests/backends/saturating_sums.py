"""Sums of products as x86 processors without VNNI compute them, where two products of 8 bits saturate at 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

_ENDS = np.iinfo(np.int16)


def sums(activations: npt.NDArray[Any], weights: npt.NDArray[Any]) -> Integers:
    """The matrix product of UINT8 activations (rows × terms) and INT8 weights (terms × columns) with saturation."""
    left, right = activations.astype(np.int64), weights.astype(np.int64)
    if left.shape[1] % 2:
        left, right = np.pad(left, ((0, 0), (0, 1))), np.pad(right, ((0, 1), (0, 0)))
    total = np.zeros((left.shape[0], right.shape[1]), np.int64)
    for term in range(0, left.shape[1], 2):
        pair = left[:, term : term + 2] @ right[term : term + 2]
        total += pair.clip(_ENDS.min, _ENDS.max)
    return total


def convolution_sums(
    images: npt.NDArray[Any], weights: npt.NDArray[Any], zero: int = 0, pads: Sequence[int] = (0, 0), stride: int = 1
) -> Integers:
    """The sums of a convolution of one group: UINT8 images (B, C, H, W), INT8 weights (O, C, h, w), with saturation.

    `zero` is the zero point of the images, whose part is subtracted from the sums afterwards, and `pads` the rows and
    columns of zeros at each side. The terms are paired with the channels innermost, as ONNX Runtime has them. Its
    kernels for several groups do not saturate.
    """
    around = ((0, 0), (0, 0), (pads[0], pads[0]), (pads[1], pads[1]))
    padded = np.pad(images.astype(np.int64), around, constant_values=zero)
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    batch, _, rows, columns = windows.shape[:4]
    left = windows.transpose(0, 2, 3, 4, 5, 1).reshape(batch * rows * columns, -1)
    right = weights.astype(np.int64).transpose(2, 3, 1, 0).reshape(-1, weights.shape[0])
    result = sums(left, right) - zero * right.sum(axis=0)
    shaped: Integers = result.reshape(batch, rows, columns, -1).transpose(0, 3, 1, 2)
    return shaped
