"""The cases of one combination of sizes: images as pixels, other inputs, and the source's answers, in one .npz file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deploytool.data import golden, images
from deploytool.data.golden import Arrays, PixelsByInput
from deploytool.errors import BadInput
from deploytool.host import disk
from deploytool.spec import Preprocessing, Tensor

_PIXELS, _INPUT, _ANSWER = "pixels", "input", "output"  # groups of arrays in the file


@dataclass(frozen=True)
class CornerCases:
    """Cases of one size, the case being the first axis of every array.

    `pixels` are uint8 NHWC images of the image inputs by name, `others` the other inputs, `answers` the source's FP32
    answers.
    """

    pixels: PixelsByInput
    others: Arrays
    answers: Arrays

    def inputs(self, tensors: Sequence[Tensor], how: Preprocessing) -> Arrays:
        """All inputs by name, the pixels as `how` makes inputs of them; `tensors` are the inputs of the model."""
        by_name = {tensor.name: tensor for tensor in tensors}
        made = {name: images.normalise(pixels, how, by_name[name]) for name, pixels in self.pixels.items()}
        return {**made, **self.others}


def write(path: Path, cases: CornerCases) -> None:
    """Writes the cases; equal cases give equal bytes."""
    groups = {_PIXELS: cases.pixels, _INPUT: cases.others, _ANSWER: cases.answers}
    arrays = {f"{group}.{name}": array for group, named in groups.items() for name, array in named.items()}
    with disk.writing(path):
        np.savez(path, allow_pickle=False, **arrays)


def parse(opened: BinaryIO, path: Path) -> CornerCases:
    """The cases in an open file, named `path` in errors; raises BadInput if it holds none."""
    try:
        with golden.loaded(opened) as file:
            pixels, others, answers = (golden.arrays_of(file, name) for name in (_PIXELS, _INPUT, _ANSWER))
    except Exception as error:  # numpy and zipfile raise many types, depending on the damage
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{path} holds no cases: {reason}", "export again, and pack the bundle again") from error
    return CornerCases(pixels, others, answers)
