"""Draws inputs for a model: images that look like photographs where it takes images, plain numbers elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool import images
from deploytool.golden import Arrays
from deploytool.spec import BATCH, Model, Range, Tensor

_GREY = 127
_LOUD = 3.0  # times a standard deviation


def draw(
    model: Model, count: int, seed: int, sizes: Mapping[str, int], *, hard: bool = False
) -> tuple[images.Pixels, Arrays]:
    """`count` cases: the pixels of the first image input (none: count × 0 × 0 × 3), and every input by name.

    `sizes` says how large each free dimension is to be, the batch aside. With `hard`, every second case goes to the
    limits: an image of full contrast, or numbers three times as large, so that each layer is seen at its loudest.
    """
    pixels = np.zeros((count, 0, 0, 3), np.uint8)
    inputs: dict[str, npt.NDArray[Any]] = {}
    for number, tensor in enumerate(model.inputs):
        shape = [count, *(sizes[side] if isinstance(side, str) else side for side in tensor.shape[1:])]
        if tensor.is_image():
            drawn = images.dead_leaves(count, shape[2], shape[3], seed + number)
            if hard:
                drawn[1::2] = np.where(drawn[1::2] > _GREY, 255, 0)
            inputs[tensor.name] = images.normalise(drawn, model.preprocessing)
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
