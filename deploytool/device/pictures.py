"""From what a user holds – a path, pixels, or a finished tensor – to the model's input."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from deploytool import images
from deploytool.backends import Array
from deploytool.bundle import Manifest
from deploytool.errors import BadInput

_WANTED = "give a path, pixels as uint8 height × width × 3, or a float32 tensor with its batch"

Picture: TypeAlias = "str | Path | npt.NDArray[np.uint8] | npt.NDArray[np.float32]"


def tensor(picture: Picture, manifest: Manifest) -> Array:
    """The model's input for one picture or a batch of tensors: a file, uint8 H × W × 3 (RGB), or what it takes itself.

    Raises BadInput if the model takes no single image, or if this is none.
    """
    wanted = manifest.inputs[0]
    if len(manifest.inputs) != 1 or not wanted.is_image():
        raise BadInput(f"{manifest.name} does not take one image", "give its tensors by name: model.run(NAME=array)")
    if isinstance(picture, (str, Path)):
        return _one(images.read(Path(picture)), manifest)
    if not isinstance(picture, np.ndarray):
        raise BadInput(f"{type(picture).__name__} is no image", _WANTED)
    if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return _one(picture.astype(np.uint8), manifest)
    if picture.dtype == np.float32 and picture.ndim == len(wanted.shape):
        return picture
    raise BadInput(f"{picture.dtype} {picture.shape} is no image", _WANTED)


def _one(pixels: npt.NDArray[np.uint8], manifest: Manifest) -> Array:
    return images.normalise(images.fit(pixels, manifest.preprocessing)[None], manifest.preprocessing)
