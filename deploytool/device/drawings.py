"""Writes what was drawn into pictures as PNG files."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from deploytool.errors import BadInput
from deploytool.host import files

_MAX_STEM = 80  # characters


def save(image: Image.Image, folder: Path, pictures: Sequence[str]) -> str:
    """Writes a drawing of an item, whose files are `pictures`, into a folder, which exists, and returns its path.

    Its name is that of the first picture with the first digits of a digest of all paths: pictures of one name in two
    folders have two drawings, and no picture is replaced by a drawing. Raises BadInput if it cannot be written.
    """
    digest = hashlib.sha256(b"\0".join(os.fsencode(Path(picture).absolute()) for picture in pictures)).hexdigest()
    path = folder / f"{Path(pictures[0]).stem[:_MAX_STEM]}_{digest[:8]}.png"
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=3)
    try:
        files.publish(path, content.getvalue())
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}", "choose another folder with --draw") from error
    return str(path)
