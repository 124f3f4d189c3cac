"""The class of every pixel, from the outputs of a segmentation model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput

Array = npt.NDArray[Any]
ClassMap = npt.NDArray[np.int64]

_REMEDY = "select one output of shape (batch, classes, height, width) or (batch, height, width) with --output"


def class_maps(outputs: Mapping[str, Array]) -> tuple[str, list[ClassMap]]:
    """The output that holds them, and the class of every pixel (height, width) of each image.

    Of scores it is the best one, of equal ones the first. The one output that is a map counts: scores (B, C, H, W) or
    (C, H, W), or classes (B, H, W), (B, 1, H, W) or (H, W) as integers of any type. Scores that are NaN are never the
    best. Raises BadInput if no output is such a map, or several are.
    """
    maps = {name: found for name, array in outputs.items() if (found := _maps(array)) is not None}
    if len(maps) != 1:
        shapes = ", ".join(f"{name} ({', '.join(map(str, array.shape))})" for name, array in outputs.items())
        problem = f"{' and '.join(maps)} hold classes of pixels" if maps else f"{shapes} holds no classes of pixels"
        raise BadInput(problem, _REMEDY)
    return next(iter(maps.items()))


def _maps(array: Array) -> list[ClassMap] | None:
    """The maps of an output; None if it holds none."""
    if array.ndim == 4 and array.shape[1] == 1 and _are_integers(array):
        array = array[:, 0]
    has_scores = array.dtype.kind == "f" and (array.ndim == 4 or (array.ndim == 3 and not _are_integers(array)))
    if has_scores and array.shape[-3] > 1:
        scores = np.where(np.isnan(array), -np.inf, array).reshape(-1, *array.shape[-3:])
        return list(scores.argmax(axis=1).astype(np.int64))
    if array.ndim in (2, 3) and min(array.shape[-2:]) > 1 and _are_integers(array):
        return list(np.rint(array).astype(np.int64).reshape(-1, *array.shape[-2:]))
    return None


def _are_integers(array: Array) -> bool:
    """Whether an array holds whole numbers only; one of floating-point zeros alone does too."""
    return array.dtype.kind in "iub" or bool((np.isfinite(array) & (array == np.rint(array))).all())
