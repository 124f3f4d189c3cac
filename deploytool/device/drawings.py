"""Writes what was drawn into pictures as PNG files."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

from PIL import Image

from deploytool.errors import BadInput
from deploytool.host import files

_MAX_STEM = 80  # characters


def save(image: Image.Image, folder: Path, picture: str) -> str:
    """Writes a drawing of the file `picture` into a folder, which exists, and returns its path.

    Its name has the first digits of a digest of the picture's path: pictures of one name in two folders have two
    drawings, and no picture is replaced by a drawing. Raises BadInput if it cannot be written.
    """
    digest = hashlib.sha256(os.fsencode(Path(picture).absolute())).hexdigest()
    path = folder / f"{Path(picture).stem[:_MAX_STEM]}_{digest[:8]}.png"
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=3)
    try:
        files.publish(path, content.getvalue())
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}", "choose another folder with --draw") from error
    return str(path)
