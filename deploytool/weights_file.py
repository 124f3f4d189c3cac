"""The weights file of a run: the weights, with the definition they belong to; read without the library that wrote it.

The format is that of safetensors: eight bytes that say how long the header is, the header in JSON, then the values.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploytool import plain
from deploytool.errors import BadInput
from deploytool.spec import Model, Source

_LONGEST = 100 << 20  # bytes of header that safetensors itself allows
_LENGTH = struct.Struct("<Q")
_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}  # what numpy has
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Values:
    """The values of one weight, as numpy reads them from `data`."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def definition(path: Path) -> Model:
    """The definition that a weights file belongs to; raises BadInput if the file names none."""
    try:
        return plain.decode(Model, plain.loads(_header(path)[_METADATA]["model"]))
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} names no model: {error}", "export again to make it anew") from error


def size(source: Source | None) -> int:
    """The bytes of the weights in a checkpoint of tensors alone; 0 for any other, whose size tells little."""
    path = Path(source.path) if source else None
    return path.stat().st_size if path and path.suffix == ".safetensors" and path.is_file() else 0


def names(path: Path) -> list[str]:
    """The names of all weights."""
    return [name for name in _header(path) if name != _METADATA]


def floats(path: Path) -> dict[str, Values]:
    """The floating-point weights by name, those left out that numpy has no type for."""
    entries = {name: entry for name, entry in _header(path).items() if entry.get("dtype") in _FLOATS}
    found = {}
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            file.seek(_LENGTH.size + length + begin)
            found[name] = Values(_FLOATS[entry["dtype"]], tuple(entry["shape"]), file.read(end - begin))
    return found


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header: dict[str, Any] = plain.loads(file.read(min(length, _LONGEST)), _LONGEST)
    return header
