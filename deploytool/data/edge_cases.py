"""Edge cases: inputs beside the golden ones, such as silence, one colour, padding, and very small or large values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.data import images
from deploytool.data.golden import Arrays
from deploytool.spec import Fill, Model, Preprocessing, Tensor

Values = npt.NDArray[Any]

_TRUTHS = 2  # values of a mask
_QUIET, _LOUD = 1e-4, 100.0  # multiples of the golden case
_COLOUR, _GREY = (200, 30, 90), 127
_FAINT = 0.04  # share of an image's contrast, as in fog: a few grey levels


@dataclass(frozen=True)
class Case:
    """One case of every input; it is `natural` if such inputs are expected in deployment."""

    name: str
    natural: bool
    inputs: Arrays


@dataclass(frozen=True)
class _Form:
    """One input at an edge; the most relevant has the lowest `rank`."""

    rank: int
    name: str
    natural: bool
    values: Values


def draw(model: Model, inputs: Arrays, most: int) -> list[Case]:
    """At most `most` edge cases, the most relevant first: one input at an edge, and the others as in `inputs`.

    `inputs` holds one golden case of every input, which determines sizes, types and magnitudes.
    """
    forms = [(tensor, form) for tensor in model.inputs for form in _forms(tensor, inputs[tensor.name], model)]
    single = len(model.inputs) == 1
    return [
        Case(form.name if single else f"{form.name} {tensor.name}", form.natural, {**inputs, tensor.name: form.values})
        for tensor, form in sorted(forms, key=lambda form: form[1].rank)
    ][:most]


def _forms(tensor: Tensor, usual: Values, model: Model) -> Iterator[_Form]:
    if tensor in model.preprocessing.images(model.inputs):
        yield from _of_pixels(tensor, usual, model.preprocessing)
    elif tensor.fill is Fill.MASK:
        yield from _of_masks(usual)
    elif tensor.fill is Fill.RANGE:
        return  # positions have no other natural values
    elif usual.dtype.kind == "f":
        yield from _of_numbers(usual)
    else:
        yield from _of_integers(usual, 2 if usual.dtype.kind == "b" else tensor.below)


def _of_pixels(tensor: Tensor, usual: Values, preprocessing: Preprocessing) -> Iterator[_Form]:
    """Images that a camera may produce, and one with values beyond the range of pixels."""
    first = preprocessing.layout.index("H")
    height, width = usual.shape[first : first + 2]
    black = np.zeros((1, height, width, 3), np.uint8)
    lit, half, slope = black.copy(), black.copy(), black.copy()
    lit[0, height // 2, width // 2] = 255
    half[:, : max(1, height // 2)] = _COLOUR
    slope[:] = np.linspace(0, 255, width).astype(np.uint8)[:, None]
    faint = _GREY + _FAINT * (images.dead_leaves(1, height, width, 0).astype(np.float64) - _GREY)
    drawn = (
        (0, "black", black),
        (2, "one colour", black + np.array(_COLOUR, np.uint8)),
        (3, "faint", faint.round().astype(np.uint8)),
        (4, "one bright pixel", lit),
        (5, "white", black + np.uint8(255)),
        (6, "half black", half),
        (7, "a ramp", slope),
    )
    for rank, name, pixels in drawn:
        yield _Form(rank, name, True, images.normalise(pixels, preprocessing, tensor))
    if usual.dtype.kind == "f":  # bytes cannot exceed white
        yield _Form(1, "loud", False, _typed(usual * _LOUD, usual))


def _of_numbers(usual: Values) -> Iterator[_Form]:
    """Floating-point values of the golden case's magnitude, except where the name says otherwise."""
    numbers = np.asarray(usual, np.float64)
    largest = float(np.abs(numbers).max(initial=0.0)) or 1.0
    one, tail = np.zeros_like(numbers), numbers.copy()
    one.reshape(-1)[numbers.size // 2] = largest
    tail[..., numbers.shape[-1] // 2 :] = 0
    slope = np.broadcast_to(np.linspace(numbers.min(), numbers.max(), numbers.shape[-1]), numbers.shape)
    drawn = [
        (0, "silence", True, np.zeros_like(numbers)),
        (1, "loud", False, numbers * _LOUD),
        (2, "a constant", True, np.full_like(numbers, largest / 2)),
        (3, "quiet", True, numbers * _QUIET),
        (4, "one sample", True, one),
        (5, "a padded tail", True, tail),
        (6, "a ramp", True, slope),
    ]
    if numbers.min() < 0 < numbers.max():  # values that are never negative may have to be non-negative
        drawn.append((7, "negative", False, -np.abs(numbers)))
    for rank, name, natural, values in drawn:
        yield _Form(rank, name, natural, _typed(values, usual))


def _of_integers(usual: Values, below: int) -> Iterator[_Form]:
    """Tokens, classes, masks: all smallest, all largest, and the smallest in the second half, as in padding."""
    tail = usual.copy()
    tail[..., tail.shape[-1] // 2 :] = 0
    yield _Form(0, "zero", below > _TRUTHS, np.zeros_like(usual))  # an empty mask is not expected in deployment
    yield _Form(2, "the largest", True, np.full_like(usual, below - 1))
    yield _Form(5, "a padded tail", True, tail)


def _of_masks(usual: Values) -> Iterator[_Form]:
    """A mask without padding, and one that leaves a single element; an empty mask has no defined result."""
    alone = np.zeros_like(usual)
    alone[..., :1] = 1
    yield _Form(2, "no padding", True, np.ones_like(usual))
    yield _Form(5, "all but one padded", True, alone)


def _typed(values: Values, like: Values) -> Values:
    return np.ascontiguousarray(values, dtype=like.dtype)
