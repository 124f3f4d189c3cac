"""Draws synthetic inputs: images with natural statistics, masks of padding, positions, random numbers otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.data import images
from deploytool.data.golden import Arrays, PixelsByInput
from deploytool.spec import BATCH, Fill, Model, Range, Tensor

_GREY = 127
_PURE = np.array(list(itertools.product((0, 255), repeat=3)), np.uint8)  # the corners of the RGB cube
_LOUD = 3.0  # standard deviations


def draw(
    model: Model, count: int, seed: int, sizes: Mapping[str, int], *, hard: bool = False
) -> tuple[PixelsByInput, Arrays]:
    """`count` cases: the pixels of every image input by name, and every input by name.

    `sizes` gives the size of each free dimension except the batch. With `hard` many cases are extreme, to drive each
    layer to its largest activations: every second image has full contrast, the last third have one pure colour, and
    every second case of numbers is three times as large.
    """
    pixels: dict[str, images.Pixels] = {}
    inputs: dict[str, npt.NDArray[Any]] = {}
    how = model.preprocessing
    image_inputs = how.images(model.inputs)
    for number, tensor in enumerate(model.inputs):
        shape = [count, *(sizes[side] if isinstance(side, str) else side for side in tensor.shape[1:])]
        if tensor in image_inputs:
            high = how.layout.index("H")
            drawn = images.dead_leaves(count, shape[high], shape[high + 1], seed + number)
            if hard:
                drawn[1::2] = np.where(drawn[1::2] > _GREY, 255, 0)
                plain = len(drawn) // 3
                drawn[len(drawn) - plain :] = np.resize(_PURE, (plain, 3))[:, None, None, :]
            inputs[tensor.name] = images.normalise(drawn, how, tensor)
            pixels[tensor.name] = drawn
        else:
            planar = any(tensor.shape[1:] == image.image_size(how.layout) for image in image_inputs)
            inputs[tensor.name] = _numbers(tensor, shape, np.random.default_rng((seed, number)), planar=planar)
            if hard and tensor.fill is Fill.RANDOM and inputs[tensor.name].dtype.kind == "f":
                inputs[tensor.name][1::2] *= _LOUD
    return pixels, inputs


def _numbers(tensor: Tensor, shape: list[int], rng: np.random.Generator, *, planar: bool) -> npt.NDArray[Any]:
    """An input that is no image; `planar` masks are padded at the bottom and on the right, others at the end."""
    dtype = np.dtype(tensor.dtype)
    if tensor.fill is Fill.RANGE:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
    if tensor.fill is Fill.MASK:
        return padding(shape, rng, planar=planar).astype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else tensor.below, shape).astype(dtype)


def padding(shape: list[int], rng: np.random.Generator, *, planar: bool) -> npt.NDArray[np.bool_]:
    """Masks of this shape with the case first: true, and false from a random length of at least 1 on.

    Every third case, the first among them, is not padded. `planar` masks are padded along the last two axes.
    """
    mask = np.ones(shape, np.bool_)
    for axis in range(len(shape) - (2 if planar else 1), len(shape)):
        lengths = rng.integers(1, shape[axis] + 1, shape[0])
        lengths[::3] = shape[axis]
        rest = [1] * (len(shape) - 1)
        positions = np.arange(shape[axis]).reshape([-1 if number == axis else 1 for number in range(len(shape))])
        mask &= positions < lengths.reshape(-1, *rest)
    return mask


def sides(sizes: Mapping[str, Range], end: str) -> dict[str, int]:
    """The `smallest`, `typical` or `largest` size of every free dimension except the batch."""
    return {word: int(getattr(limits, end)) for word, limits in sizes.items() if word != BATCH}
