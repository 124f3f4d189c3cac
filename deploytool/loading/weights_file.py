"""Reads the weights file of a run (safetensors) and the model definition in its metadata, without torch.

Format: the length of the header (8 bytes, little endian), the header in JSON, then the values.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.spec import Model, Source

_MAX_HEADER_BYTES = 100 << 20  # the limit of safetensors itself
_LENGTH = struct.Struct("<Q")
_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}  # safetensors name: numpy dtype
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Values:
    """The values of one weight: `data` in the numpy dtype `dtype`, mapped from the file."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def definition(path: Path) -> Model:
    """The model definition in the metadata of a weights file; raises BadInput if there is none."""
    try:
        return serde.decode(Model, serde.loads(_header(path)[_METADATA]["model"]))
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} contains no model definition: {error}", "run the export again") from error


def size(source: Source | None) -> int:
    """The size in bytes of a safetensors checkpoint; 0 for other formats, which may contain more than weights."""
    path = Path(source.path) if source else None
    return path.stat().st_size if path and path.suffix == ".safetensors" and path.is_file() else 0


def names(path: Path) -> list[str]:
    """The names of all weights; raises BadInput for an invalid file."""
    return list(_entries(path)[1])


def float_values(path: Path) -> dict[str, Values]:
    """The floating-point weights by name; bfloat16 and narrower types, which numpy lacks, are left out.

    Raises BadInput for an invalid file.
    """
    start, entries = _entries(path)
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[start:]
    return {
        name: Values(_FLOATS[entry.dtype], entry.shape, content[slice(*entry.data_offsets)])
        for name, entry in entries.items()
        if entry.dtype in _FLOATS
    }


@dataclass(frozen=True)
class _Entry:
    """The header entry of one weight; the fields are those of safetensors."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _entries(path: Path) -> tuple[int, dict[str, _Entry]]:
    """The offset of the values in the file, and the header entry of each weight."""
    try:
        start, header = _read_header(path)
        raw_entries = {name: entry for name, entry in header.items() if name != _METADATA}
        entries = serde.decode(dict[str, _Entry], raw_entries)
        size = path.stat().st_size - start
        if any(not 0 <= begin <= end <= size for begin, end in (entry.data_offsets for entry in entries.values())):
            raise ValueError("the offsets of a weight are outside the file")
    except (OSError, struct.error, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is not a weights file: {error}", "run the export again") from error
    return start, entries


def _header(path: Path) -> dict[str, Any]:
    return _read_header(path)[1]


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """The offset of the values in the file, and the header."""
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header: dict[str, Any] = serde.loads(file.read(min(length, _MAX_HEADER_BYTES)), _MAX_HEADER_BYTES)
    return _LENGTH.size + length, header
