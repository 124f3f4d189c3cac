"""From what a user holds – a path, pixels, or a finished tensor – to the model's input."""

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
    """The model's input for one picture or a batch of tensors: a file, uint8 H × W × 3 (RGB), or what it takes itself.

    Raises BadInput if the model takes no single image, if this is none, or if it has a size that the model is not for.
    """
    (wanted, *others) = manifest.inputs
    if others or not manifest.preprocessing.images([wanted]):
        raise BadInput(f"{manifest.name} does not take one image", "give its tensors by name: model.run(NAME=array)")
    if isinstance(picture, (str, Path)):
        return _one(images.read(Path(picture)), wanted, manifest, str(picture))
    if not isinstance(picture, np.ndarray):
        raise BadInput(f"{type(picture).__name__} is no image", _wanted(wanted))
    if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return _one(picture.astype(np.uint8), wanted, manifest, "the picture")
    if picture.dtype == np.dtype(wanted.dtype) and picture.ndim == len(wanted.shape):
        return picture
    raise BadInput(f"{picture.dtype} {picture.shape} is no image", _wanted(wanted))


def _wanted(tensor: Tensor) -> str:
    return f"give a path, pixels as uint8 height × width × 3, or a {tensor.dtype} tensor with its batch"


def _one(pixels: npt.NDArray[np.uint8], wanted: Tensor, manifest: Manifest, name: str) -> Array:
    how = manifest.preprocessing
    made = images.normalise(images.fit(pixels, how)[None], how, wanted)
    if problem := preprocess.size_problem(made.shape, wanted, manifest.free):
        high, wide = pixels.shape[:2]
        remedy = "give a picture of such a size, or pack one that resizes: export with --resize or --crop"
        raise BadInput(f"{name}, {high} × {wide}, has a size that {manifest.name} is not for: {problem}", remedy)
    return made
