"""Reads labelled pictures as inputs of a model, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploytool.data import images, placement, preprocess
from deploytool.data.golden import Arrays
from deploytool.data.images import Pixels
from deploytool.data.placement import Placement
from deploytool.errors import BadInput
from deploytool.spec import Model, Range

_MOST = 16  # pictures at a time


@dataclass(frozen=True)
class Batch:
    """Pictures that become inputs of one size: their places in the series, the inputs, and where each lies in them."""

    indices: tuple[int, ...]
    inputs: Arrays
    size: tuple[int, int]
    placements: tuple[Placement, ...]


def check_input(model: Model) -> None:
    """Raises BadInput for a model that takes anything but one image."""
    if len(model.inputs) > 1 or not model.preprocessing.images(model.inputs):
        remedy = "leave --metric and --labels out, or state how an image becomes the input: --mean 0 --std 1, --layout"
        raise BadInput(f"a metric on images is for models that take one, and {model.name} does not", remedy)


def read(model: Model, paths: Sequence[Path], sizes: Mapping[str, Range]) -> Iterator[Batch]:
    """The pictures in their order; raises BadInput for one that cannot be read or has a size that the model refuses."""
    waiting: list[tuple[int, Pixels, Placement]] = []
    for index, path in enumerate(paths):
        picture = images.read(path)
        fitted = images.fit(picture, model.preprocessing)
        if waiting and (waiting[0][1].shape != fitted.shape or len(waiting) == _MOST):
            yield _batch(model, waiting)
            waiting = []
        _check_size(model, path, fitted, sizes)
        waiting.append((index, fitted, placement.place(picture.shape[:2], model.preprocessing)))
    if waiting:
        yield _batch(model, waiting)


def _check_size(model: Model, path: Path, fitted: Pixels, sizes: Mapping[str, Range]) -> None:
    tensor, how = model.inputs[0], model.preprocessing
    height, width = fitted.shape[:2]
    shape = [1, *tensor.shape[1:]]
    first = how.layout.index("H")
    shape[first : first + 2] = height, width
    if problem := preprocess.size_problem([side if isinstance(side, int) else 0 for side in shape], tensor, sizes):
        raise BadInput(f"{path.name} becomes {height} × {width}: {problem}", "correct --size, --resize or --crop")


def _batch(model: Model, waiting: Sequence[tuple[int, Pixels, Placement]]) -> Batch:
    tensor = model.inputs[0]
    array = images.normalise(np.stack([pixels for _, pixels, _ in waiting]), model.preprocessing, tensor)
    size = waiting[0][1].shape[0], waiting[0][1].shape[1]
    places = tuple(place for _, _, place in waiting)
    return Batch(tuple(index for index, _, _ in waiting), {tensor.name: array}, size, places)
