"""Reads the masks of pictures: one PNG for each, whose pixels are classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from deploytool.data import images
from deploytool.data.labels.labelled_images import LabelledImages
from deploytool.errors import BadInput

IGNORED = 255  # pixels of this value count for nothing
_MODES = ("L", "P", "1")
_MAX_PIXELS = 40_000_000


def find(masks: Path, paths: Sequence[Path], classes: Sequence[str]) -> LabelledImages:
    """Pictures with the masks of the same name, but for the suffix.

    Raises BadInput if a picture has no mask or two, and for a mask of another size or of several channels.
    """
    by_stem: dict[str, list[Path]] = {}
    for mask in sorted(masks.iterdir()):
        if mask.suffix.lower() == ".png":
            by_stem.setdefault(mask.stem, []).append(mask)
    for path in paths:
        found = len(by_stem.get(path.stem, ()))
        if found != 1:
            what = f"no mask {path.stem}.png" if not found else f"{found} masks for {path.stem}"
            raise BadInput(f"{masks} has {what}", "give one PNG for each picture, with its name")
    found_masks = tuple(by_stem[path.stem][0] for path in paths)
    for path, mask in zip(paths, found_masks, strict=True):
        check_size(mask, _size(mask), images.upright_size(path))
    return LabelledImages(tuple(paths), found_masks, tuple(classes))


def check_size(mask: Path, size: tuple[int, int], picture: tuple[int, int]) -> None:
    """Raises BadInput unless a mask has the size, height and width, of its picture."""
    if size != picture:
        sizes = f"{size[0]} × {size[1]}, and its picture {picture[0]} × {picture[1]}"
        raise BadInput(f"the mask {mask} is {sizes}", "give masks of the size of their pictures")


def read(path: Path) -> npt.NDArray[np.uint8]:
    """The classes of a mask, height × width; raises BadInput if the file is no PNG of one channel with 8 bits."""
    with _opened(path) as image:
        return np.array(image, np.uint8)


def _size(path: Path) -> tuple[int, int]:
    """Height and width of a mask, without decoding; raises BadInput as `read` does."""
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("it is no file")
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"it has {image.width} × {image.height} pixels")
            if image.mode not in _MODES:
                raise ValueError(f"its pixels are {image.mode}, not classes")
            yield image
    except Exception as error:  # Pillow raises many types, depending on the damage
        raise BadInput(f"{path} cannot be read as a mask: {error}", "give a PNG with a class for each pixel") from error
