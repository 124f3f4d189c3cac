"""Models that take images as pixels (uint8) and normalise them in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from deploytool.data import inputs_file, preprocess
from deploytool.data.preprocess import StatedPreprocessing
from deploytool.errors import BadInput
from deploytool.spec import Model, Range, Tensor

_BYTES = "uint8"
_LEVELS = 256


def resolve(model: Model, stated: StatedPreprocessing, sizes: Mapping[str, Range]) -> Model:
    """The model with pixels as its image inputs, for the preprocessing that `preprocess.resolve` finds.

    A stated layout is that of the pixels; the model itself has the other one where its inputs only fit that. Raises
    BadInput if no input is an image, or if one is uint8 already, whose normalisation is the model's own.
    """
    resolved = preprocess.resolve(model, replace(stated, layout=_own_layout(model, stated.layout)), sizes)
    found = resolved.preprocessing.images(resolved.inputs)
    if not found:
        problem = f"--io uint8 needs an image input, and {model.name} has none"
        raise BadInput(problem, preprocess.image_remedy(model, resolved.preprocessing))
    ready = [tensor.name for tensor in found if tensor.dtype == _BYTES]
    if ready:
        problem = f"{ready[0]} is a uint8 input already, which {model.name} normalises itself"
        raise BadInput(problem, f"leave --io uint8 out, or declare {ready[0]} as float32: --input")
    return taking_pixels(resolved, stated.layout or resolved.preprocessing.layout)


def _own_layout(model: Model, stated: str | None) -> str | None:
    """The layout of the model's own images: the stated one if an input has it, else the other one."""
    if stated not in preprocess.LAYOUTS or any(tensor.image_size(stated) for tensor in model.inputs):
        return stated
    (other,) = (layout for layout in preprocess.LAYOUTS if layout != stated)
    return other if any(tensor.image_size(other) for tensor in model.inputs) else stated


def taking_pixels(model: Model, layout: str) -> Model:
    """The model with pixels of that layout (RGB, or grey for one channel) in place of its image inputs."""
    how = model.preprocessing
    found = how.images(model.inputs)
    inputs = tuple(_pixels(tensor, how.layout, layout) if tensor in found else tensor for tensor in model.inputs)
    unscaled = replace(how, channels="RGB", scale=1.0, mean=(0.0,), std=(1.0,), layout=layout, assumed=False)
    return replace(model, inputs=inputs, preprocessing=unscaled, normalisation=how, normalised=found)


def _pixels(tensor: Tensor, own: str, layout: str) -> Tensor:
    sizes = dict(zip(own, tensor.shape, strict=True))
    return Tensor(tensor.name, tuple(sizes[axis] for axis in layout), _BYTES, _LEVELS)


def original(model: Model) -> Model:
    """The model with its own image inputs; a model that does not take pixels for them stays as it is."""
    if model.normalisation is None:
        return model
    inputs = {tensor.name: tensor for tensor in model.inputs}
    for tensor in model.normalised:  # the number of cases may have been fixed since
        if tensor.name in inputs:  # a file may hold anything
            inputs[tensor.name] = replace(tensor, shape=(*inputs[tensor.name].shape[:1], *tensor.shape[1:]))
    own = replace(model, inputs=tuple(inputs.values()), normalisation=None, normalised=())
    return replace(own, preprocessing=model.normalisation)


def as_before(changed: Model, before: Model) -> Model:
    """What `original(before)` has become, with pixels as its image inputs if `before` has them."""
    return changed if before.normalisation is None else taking_pixels(changed, before.preprocessing.layout)


def check_file(model: Model, path: Path) -> None:
    """Raises BadInput for a file of golden inputs whose images are normalised already."""
    names = [tensor.name for tensor in model.normalised]
    for tensor in inputs_file.declared(path):
        if tensor.name in names and tensor.dtype != _BYTES:
            problem = f"{path}: {tensor.name} is {tensor.dtype}, and with --io uint8 the model takes pixels"
            raise BadInput(problem, "save the pixels from 0 to 255 as uint8, or leave --io uint8 out")
