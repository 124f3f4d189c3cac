"""Draws inputs for a model: images that look like photographs where it takes images, plain numbers elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.data import images
from deploytool.data.golden import Arrays
from deploytool.spec import BATCH, Model, Range, Tensor

_GREY = 127
_PURE = np.array(list(itertools.product((0, 255), repeat=3)), np.uint8)  # the corners of the RGB cube
_LOUD = 3.0  # times a standard deviation


def draw(
    model: Model, count: int, seed: int, sizes: Mapping[str, int], *, hard: bool = False
) -> tuple[images.Pixels, Arrays]:
    """`count` cases: the pixels of the first image input (none: count × 0 × 0 × 3), and every input by name.

    `sizes` says how large each free dimension is to be, the batch aside. With `hard` many cases go to the limits, so
    that each layer is seen at its loudest: every second image has full contrast, the last third are of one pure colour,
    and every second case of numbers is three times as large.
    """
    pixels = np.zeros((count, 0, 0, 3), np.uint8)
    inputs: dict[str, npt.NDArray[Any]] = {}
    how = model.preprocessing
    pictured = how.images(model.inputs)
    for number, tensor in enumerate(model.inputs):
        shape = [count, *(sizes[side] if isinstance(side, str) else side for side in tensor.shape[1:])]
        if tensor in pictured:
            high = how.layout.index("H")
            drawn = images.dead_leaves(count, shape[high], shape[high + 1], seed + number)
            if hard:
                drawn[1::2] = np.where(drawn[1::2] > _GREY, 255, 0)
                plain = len(drawn) // 3
                drawn[len(drawn) - plain :] = np.resize(_PURE, (plain, 3))[:, None, None, :]
            inputs[tensor.name] = images.normalise(drawn, how, tensor)
            pixels = drawn if not pixels.size else pixels
        else:
            inputs[tensor.name] = _numbers(tensor, shape, np.random.default_rng((seed, number)))
            if hard and inputs[tensor.name].dtype.kind == "f":
                inputs[tensor.name][1::2] *= _LOUD
    return pixels, inputs


def _numbers(tensor: Tensor, shape: list[int], rng: np.random.Generator) -> npt.NDArray[np.generic]:
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else tensor.below, shape).astype(dtype)


def sides(sizes: Mapping[str, Range], end: str) -> dict[str, int]:
    """One size for every free dimension: its `smallest`, `typical` or `largest`."""
    return {word: int(getattr(limits, end)) for word, limits in sizes.items() if word != BATCH}
