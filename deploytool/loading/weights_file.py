"""The weights file of a run: the weights, with the definition they belong to; read without the library that wrote it.

The format is that of safetensors: eight bytes that say how long the header is, the header in JSON, then the values.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploytool import serde
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
        return serde.decode(Model, serde.loads(_header(path)[_METADATA]["model"]))
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} names no model: {error}", "export again to make it anew") from error


def size(source: Source | None) -> int:
    """The bytes of the weights in a checkpoint of tensors alone; 0 for any other, whose size tells little."""
    path = Path(source.path) if source else None
    return path.stat().st_size if path and path.suffix == ".safetensors" and path.is_file() else 0


def names(path: Path) -> list[str]:
    """The names of all weights; raises BadInput for a file that is something else."""
    return list(_entries(path)[1])


def float_values(path: Path) -> dict[str, Values]:
    """The floating-point weights by name, those left out that numpy has no type for.

    Raises BadInput for a file that is something else.
    """
    start, entries = _entries(path)
    found = {}
    with path.open("rb") as file:
        for name, entry in entries.items():
            if entry.dtype in _FLOATS:
                begin, end = entry.data_offsets
                file.seek(start + begin)
                found[name] = Values(_FLOATS[entry.dtype], entry.shape, file.read(end - begin))
    return found


@dataclass(frozen=True)
class _Entry:
    """What the header says of one weight, in the format's own words."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _entries(path: Path) -> tuple[int, dict[str, _Entry]]:
    """Where the values begin, and what the header says of each weight."""
    try:
        start, header = _begun(path)
        entries = serde.decode(dict[str, _Entry], {name: each for name, each in header.items() if name != _METADATA})
        size = path.stat().st_size - start
        if any(not 0 <= begin <= end <= size for begin, end in (each.data_offsets for each in entries.values())):
            raise ValueError("a weight lies outside of it")
    except (OSError, struct.error, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is no weights file: {error}", "export again to make it anew") from error
    return start, entries


def _header(path: Path) -> dict[str, Any]:
    return _begun(path)[1]


def _begun(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the values begin, and the header before them."""
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header: dict[str, Any] = serde.loads(file.read(min(length, _LONGEST)), _LONGEST)
    return _LENGTH.size + length, header
