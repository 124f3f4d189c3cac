"""Reads labelled items, one picture for each image input, as inputs of a model, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploytool.data import image_inputs, images, placement
from deploytool.data.golden import Arrays
from deploytool.data.image_inputs import ImageInput
from deploytool.data.images import Pixels
from deploytool.data.placement import Placement
from deploytool.errors import BadInput
from deploytool.spec import Model, Range

_MOST = 16  # items at a time


@dataclass(frozen=True)
class Batch:
    """Items that become inputs of one size: their places in the series, the inputs, and where each lies in them.

    Size and placements are those of the pictures of the first input.
    """

    indices: tuple[int, ...]
    inputs: Arrays
    size: tuple[int, int]
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class _Read:
    """One item: its place in the series, its fitted pictures, and where the first of them lies."""

    index: int
    fitted: tuple[Pixels, ...]
    placed: Placement

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each picture."""
        return tuple(pixels.shape for pixels in self.fitted)


def check_input(model: Model) -> None:
    """Raises BadInput for a model that takes anything but images."""
    if not model.inputs or model.preprocessing.images(model.inputs) != model.inputs:
        remedy = "leave --metric and --labels out, or state how an image becomes the input: --mean 0 --std 1, --layout"
        raise BadInput(f"a metric on images is for models that take images alone, and {model.name} does not", remedy)


def read(model: Model, items: Sequence[Sequence[Path]], sizes: Mapping[str, Range]) -> Iterator[Batch]:
    """The items in their order; raises BadInput for a picture that cannot be read or has a size that is refused."""
    inputs = image_inputs.find(model.inputs, model.preprocessing, sizes)
    waiting: list[_Read] = []
    for index, paths in enumerate(items):
        read = _read(inputs, index, paths, sizes)
        if waiting and (waiting[0].sizes != read.sizes or len(waiting) == _MOST):
            yield _batch(inputs, waiting)
            waiting = []
        waiting.append(read)
    if waiting:
        yield _batch(inputs, waiting)


def of_cases(inputs: Arrays, model: Model) -> Iterator[Batch]:
    """Cases that are inputs already, as batches; a picture in them is taken to fill its input."""
    cases = len(next(iter(inputs.values())))
    found = image_inputs.find(model.inputs, model.preprocessing, {})
    size = (1, 1)
    if found:
        shape, first = inputs[found[0].tensor.name].shape, model.preprocessing.layout.index("H")
        size = shape[first], shape[first + 1]
    for start in range(0, cases, _MOST):
        indices = tuple(range(start, min(start + _MOST, cases)))
        part = {name: array[start : start + _MOST] for name, array in inputs.items()}
        yield Batch(indices, part, size, (Placement(size, size, (0, 0), size),) * len(indices))


def _read(inputs: Sequence[ImageInput], index: int, paths: Sequence[Path], sizes: Mapping[str, Range]) -> _Read:
    fitted, placements = list[Pixels](), list[Placement]()
    for image_input, path in zip(inputs, paths, strict=True):
        picture = images.read(path)
        fitted.append(image_input.fit(picture))
        placements.append(placement.place((picture.shape[0], picture.shape[1]), image_input.how))
        if problem := image_input.size_problem(fitted[-1], sizes):
            height, width = fitted[-1].shape[:2]
            raise BadInput(f"{path.name} becomes {height} × {width}: {problem}", "correct --size, --resize or --crop")
    return _Read(index, tuple(fitted), placements[0])


def _batch(inputs: Sequence[ImageInput], waiting: Sequence[_Read]) -> Batch:
    pictures = [np.stack(pixels) for pixels in zip(*(read.fitted for read in waiting), strict=True)]
    arrays = {each.tensor.name: each.normalise(pixels) for each, pixels in zip(inputs, pictures, strict=True)}
    size = pictures[0].shape[1], pictures[0].shape[2]
    return Batch(tuple(read.index for read in waiting), arrays, size, tuple(read.placed for read in waiting))
