"""Bilinear resizing as OpenCV's `INTER_LINEAR` computes it for 8-bit images: two nearest pixels, in fixed point.

Unlike Pillow's, it does not average over more pixels when an image shrinks.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
Integers: TypeAlias = npt.NDArray[np.int32]

_ONE = 2048  # a weight of 1: OpenCV's weights have 11 bits
_STRIP = 1 << 18  # pixels computed at once


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """An image (uint8, height × width × channels) resized to another height and width."""
    rows, row_weights = _taps(pixels.shape[0], height, edge_alone=False)
    columns, column_weights = _taps(pixels.shape[1], width, edge_alone=True)
    made = np.empty((height, width, pixels.shape[2]), np.uint8)
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        part = slice(top, top + step)
        blended = [
            _along_rows(pixels[rows[tap, part]], columns, column_weights) * row_weights[tap, part, None, None] >> 16
            for tap in (0, 1)
        ]
        made[part] = (blended[0] + blended[1] + 2) >> 2
    return made


def _taps(size: int, resized: int, *, edge_alone: bool) -> tuple[npt.NDArray[np.intp], Integers]:
    """The two source pixels of each new pixel along one axis, 2 × `resized`, and their weights, which add up to 2048.

    Positions are rounded to float32 before they are split, as OpenCV does. Beyond the edge both are the pixel of the
    edge; `edge_alone` gives one of them all the weight, which changes how products are rounded.
    """
    scale = 1 / (resized / size)
    position = ((np.arange(resized) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position)
    share = position - first
    first = first.astype(np.intp)
    if edge_alone:
        share[(first < 0) | (first >= size - 1)] = 0
    weights = np.rint(np.stack([np.float32(1) - share, share]) * np.float32(_ONE)).astype(np.int32)
    return np.stack([first, first + 1]).clip(0, size - 1), weights


def _along_rows(pixels: Pixels, columns: npt.NDArray[np.intp], weights: Integers) -> Integers:
    """The rows resized, 128 times as large as their pixels: the 4 lowest bits of the sum are cut off."""
    first, second = (pixels[:, columns[tap]] * weights[tap, :, None] for tap in (0, 1))
    summed: Integers = (first + second) >> 4
    return summed
