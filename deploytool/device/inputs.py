"""Turns an image file, pixels or a finished tensor into the input of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from deploytool.backends.session import Array
from deploytool.bundle.manifest import Manifest
from deploytool.data import images, preprocess
from deploytool.errors import BadInput
from deploytool.spec import Tensor

Picture: TypeAlias = "str | Path | npt.NDArray[Any]"


def tensor(picture: Picture, manifest: Manifest) -> Array:
    """The model's input for one image or a batch of tensors.

    `picture` is the path of an image, uint8 pixels (height × width × 3, RGB), or the input tensor with its batch.
    Raises BadInput if the model takes no single image, for another type or shape of `picture`, and if its size is
    outside the range of the model.
    """
    spec = _image_input(manifest)
    if isinstance(picture, (str, Path)):
        return _preprocess(images.read(Path(picture)), spec, manifest, str(picture))
    if not isinstance(picture, np.ndarray):
        raise BadInput(f"{type(picture).__name__} is not an image", _accepted(spec))
    if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return _preprocess(picture.astype(np.uint8), spec, manifest, "the image")
    if picture.dtype == np.dtype(spec.dtype) and picture.ndim == len(spec.shape):
        return picture
    raise BadInput(f"{picture.dtype} {picture.shape} is not an image", _accepted(spec))


def from_pixels(pixels: npt.NDArray[np.uint8], manifest: Manifest, name: str) -> Array:
    """The model's input for the pixels (height × width × 3, RGB) of an image called `name` in errors.

    Raises BadInput if the model takes no single image, or none of this size.
    """
    return _preprocess(pixels, _image_input(manifest), manifest, name)


def _image_input(manifest: Manifest) -> Tensor:
    """The only input of a model, which is an image; raises BadInput for other models."""
    (spec, *further) = manifest.inputs
    if further or not manifest.preprocessing.images([spec]):
        raise BadInput(f"{manifest.name} does not take one image", "pass its tensors by name: model.run(NAME=array)")
    return spec


def _accepted(spec: Tensor) -> str:
    return f"pass a path, pixels as uint8 height × width × 3, or a {spec.dtype} tensor with its batch"


def _preprocess(pixels: npt.NDArray[np.uint8], spec: Tensor, manifest: Manifest, name: str) -> Array:
    """The input tensor for pixels of height × width × 3, with a batch of one."""
    preprocessing = manifest.preprocessing
    batch = images.normalise(images.fit(pixels, preprocessing)[None], preprocessing, spec)
    if problem := preprocess.size_problem(batch.shape, spec, manifest.free):
        height, width = pixels.shape[:2]
        remedy = "give an image of such a size, or export with --resize or --crop"
        raise BadInput(f"{name}, {height} × {width}, has a size that {manifest.name} is not for: {problem}", remedy)
    return batch
