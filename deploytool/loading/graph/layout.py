"""Converts arrays between a model, with its batch first, and the given file, which may have it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from deploytool.data import normalised_inputs
from deploytool.spec import GivenTensor, Model

Array: TypeAlias = npt.NDArray[Any]


def to_file(model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of the file for one batch of the model's inputs; pixels are normalised, which the file does not do."""
    assert model.given is not None
    pairs, own = zip(model.given.inputs, model.inputs, strict=True), normalised_inputs.make(model, inputs)
    return {place.name: _to_file(place, own[tensor.name]) for place, tensor in pairs}


def _to_file(place: GivenTensor, array: Array) -> Array:
    moved = array[0] if place.batch_axis is None else np.moveaxis(array, 0, place.batch_axis)
    dtype = np.float16 if place.half else np.float64 if place.double else None
    return np.asarray(moved, dtype, order="C")  # np.ascontiguousarray adds an axis to a scalar


def from_file(place: GivenTensor, array: Array) -> Array:
    """The output of the model for that of the file; an array without the axis of its batch stays as it is."""
    array = array.astype(np.float32) if place.half or place.double else array
    if place.batch_axis is None:
        return array[np.newaxis]
    return np.ascontiguousarray(np.moveaxis(array, place.batch_axis, 0)) if array.ndim > place.batch_axis else array
