"""What a weights file says of itself, read without the library that wrote it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from deploytool import plain
from deploytool.errors import BadInput
from deploytool.spec import Model

_LONGEST = 100 << 20  # bytes of header that safetensors itself allows


def definition(path: Path) -> Model:
    """The definition that a weights file belongs to; raises BadInput if the file names none."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LONGEST)))
        return plain.decode(Model, json.loads(header["__metadata__"]["model"]))
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} names no model: {error}", "export again to make it anew") from error
