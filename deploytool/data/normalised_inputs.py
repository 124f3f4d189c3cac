"""Normalises the inputs of a model that takes pixels (uint8) as a host does it, for the model without normalisation."""

from __future__ import annotations

import numpy as np

from deploytool.data import images
from deploytool.data.golden import Arrays
from deploytool.spec import Model


def make(model: Model, inputs: Arrays) -> Arrays:
    """The inputs of `pixel_inputs.original(model)` for those of `model`."""
    if model.normalisation is None:
        return inputs
    made = dict(inputs)
    for tensor in model.normalised:
        pixels = inputs[tensor.name]
        pixels = pixels if model.preprocessing.layout == "NHWC" else pixels.transpose(0, 2, 3, 1)
        coloured = np.broadcast_to(pixels, (*pixels.shape[:3], 3))  # the luma of R = G = B is that number
        made[tensor.name] = images.normalise(coloured, model.normalisation, tensor)
    return made
