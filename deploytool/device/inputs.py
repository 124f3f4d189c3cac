"""Turns image files, pixels or finished tensors into the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from deploytool.backends.session import Array
from deploytool.bundle.manifest import Manifest
from deploytool.data import image_inputs, images
from deploytool.data.golden import Arrays, PixelsByInput
from deploytool.data.image_inputs import ImageInput
from deploytool.errors import BadInput

Picture: TypeAlias = "str | Path | npt.NDArray[Any]"
Pictures: TypeAlias = "Picture | Mapping[str, Picture]"  # one, or one for each input by name


def find(manifest: Manifest) -> tuple[ImageInput, ...]:
    """The inputs of a model that takes images alone, in their order; raises BadInput for other models."""
    found = image_inputs.find(manifest.inputs, manifest.preprocessing, manifest.free)
    if not found:
        problem = f"{manifest.name} does not take images alone"
        raise BadInput(problem, "pass its tensors by name: model.run(NAME=array)")
    return found


def pictures(images: Sequence[Path], manifest: Manifest) -> tuple[Path, ...]:
    """The paths of images as they were given, for several inputs as NAME=PATH: those of one item after the other.

    The n-th path of each input belongs to the n-th item. Raises BadInput for a name that is missing or of no input, and
    if the inputs have different numbers of paths.
    """
    names = [tensor.name for tensor in manifest.inputs]
    if len(names) == 1:
        return tuple(images)
    find(manifest)
    remedy = f"write {' '.join(f'{name}=FILE' for name in names)}, and again for each further item"
    given: dict[str, list[Path]] = {name: [] for name in names}
    for image in images:
        name = next((name for name in names if str(image).startswith(f"{name}=")), None)
        if name is None:
            raise BadInput(f"{image} does not say which of {', '.join(names)} it is for", remedy)
        given[name].append(Path(str(image)[len(name) + 1 :]))
    if len({len(paths) for paths in given.values()}) > 1:
        counts = ", ".join(f"{len(paths)} for {name}" for name, paths in given.items())
        raise BadInput(f"the inputs have different numbers of images: {counts}", remedy)
    return tuple(path for item in zip(*given.values(), strict=True) for path in item)


def tensors(pictures: Pictures, manifest: Manifest) -> Arrays:
    """The model's inputs by name for one image, or a batch of tensors, for each of them.

    A picture is the path of an image, uint8 pixels (height × width × 3, RGB), or the input tensor with its batch. A
    model of several inputs takes a mapping by their names. Raises BadInput if the model takes anything but images, for
    another type or shape of a picture, and if its size is outside the range of the model.
    """
    found = find(manifest)
    names = [each.tensor.name for each in found]
    if not isinstance(pictures, Mapping):
        if len(found) > 1:
            listed = ", ".join(f"{name!r}: …" for name in names)
            raise BadInput(f"{manifest.name} takes an image for each of {', '.join(names)}", f"pass {{{listed}}}")
        pictures = {names[0]: pictures}
    if set(pictures) != set(names):
        problem = f"{manifest.name} takes {', '.join(names)}, not {', '.join(map(str, pictures)) or 'nothing'}"
        raise BadInput(problem, "pass an image for each input by its name")
    return {each.tensor.name: _tensor(pictures[each.tensor.name], each, manifest) for each in found}


def _tensor(picture: Picture, image_input: ImageInput, manifest: Manifest) -> Array:
    spec = image_input.tensor
    if isinstance(picture, (str, Path)):
        return _preprocess(images.read(Path(picture)), image_input, manifest, str(picture))
    if not isinstance(picture, np.ndarray):
        raise BadInput(f"{type(picture).__name__} is not an image", _accepted(image_input))
    if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return _preprocess(picture.astype(np.uint8), image_input, manifest, "the image")
    if picture.dtype == np.dtype(spec.dtype) and picture.ndim == len(spec.shape):
        return picture
    raise BadInput(f"{picture.dtype} {picture.shape} is not an image", _accepted(image_input))


def from_pixels(pixels: PixelsByInput, manifest: Manifest, names: Mapping[str, str]) -> Arrays:
    """The model's inputs for the pixels (height × width × 3, RGB) of one image for each of them.

    `names` are those of the images in errors. Raises BadInput if an image has a size that the model is not for.
    """
    return {
        each.tensor.name: _preprocess(pixels[each.tensor.name], each, manifest, names[each.tensor.name])
        for each in find(manifest)
    }


def _accepted(image_input: ImageInput) -> str:
    return f"pass a path, pixels as uint8 height × width × 3, or a {image_input.tensor.dtype} tensor with its batch"


def _preprocess(pixels: npt.NDArray[np.uint8], image_input: ImageInput, manifest: Manifest, name: str) -> Array:
    """The input tensor for pixels of height × width × 3, with a batch of one."""
    fitted = image_input.fit(pixels)
    if problem := image_input.size_problem(fitted, manifest.free):
        height, width = pixels.shape[:2]
        remedy = "give an image of such a size, or export with --resize or --crop"
        raise BadInput(f"{name}, {height} × {width}, has a size that {manifest.name} is not for: {problem}", remedy)
    return image_input.normalise(fitted[None])
