"""Rules for side files, which hold the weights of a graph beside it; the host and the device both apply them.

An ONNX graph names a side file by its location, relative to its own folder, and a range of bytes in it. All three are
texts that anyone may have written.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ELEMENT_TYPES: Mapping[int, str] = {  # of weights that can be in a side file: ONNX's number and numpy's name
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool"},
    **{10: "float16", 11: "float64", 12: "uint32", 13: "uint64"},
}  # ONNX Runtime takes arrays of these types beside a graph
# Bytes of weights beyond which they go to a side file: a protobuf message holds 2 GiB, and the rest is for the nodes.
MAX_INLINE_BYTES = (2 << 30) - (128 << 20)
SUFFIX = ".data"  # of the side file that deploytool writes beside a graph
_KEYS = frozenset(("location", "offset", "length", "checksum"))
_NUMBER = re.compile(r"[0-9]{1,19}")
_MAX_LOCATION = 1024  # characters


@dataclass(frozen=True)
class Reference:
    """The range of bytes in a side file that holds a tensor; `length` is None where the graph states none."""

    tensor: str
    location: str
    offset: int
    length: int | None
    checksum: str = ""  # SHA-1 of the whole side file as ONNX defines it, if stated


def reference(tensor: str, entries: Sequence[tuple[str, str]], graph: str) -> Reference:
    """The reference that the keys and values of a tensor state; raises ValueError, with the problem, if it is invalid.

    `graph` is the file name of the graph.
    """
    stated = dict(entries)
    if len(stated) < len(entries):
        raise ValueError("states a key of its external data twice")
    if unknown := sorted(set(stated) - _KEYS):
        raise ValueError(f"has external data with the unknown key {unknown[0][:40]!r}")
    location = stated.get("location", "")
    if problem := location_problem(location, graph):
        raise ValueError(f"has external data at {location[:80]!r}, {problem}")
    offset, length = (_number(stated[key], key) if key in stated else None for key in ("offset", "length"))
    return Reference(tensor, location, offset or 0, length, stated.get("checksum", ""))


def location_problem(location: str, graph: str) -> str | None:
    """Why a location cannot name a side file of the graph with the file name `graph`; None if it can.

    A location has slashes on every system, stays below the folder of the graph, and means the same file everywhere:
    backslashes, colons (drives and streams of Windows) and asterisks (addresses in memory, to ONNX Runtime) are no part
    of it.
    """
    if not location:
        return "which is empty"
    if len(location) > _MAX_LOCATION:
        return "which is too long"
    if not location.isprintable() or any(character in location for character in '\\:*?"<>|'):
        return "which contains a character that no location may have"
    parts = location.split("/")
    if location.startswith("/") or ".." in parts:
        return "which leaves the folder of the graph"
    if any(part in ("", ".") or part != part.rstrip() or part.endswith(".") for part in parts):
        return "which is not in its shortest form"
    if location.casefold() == graph.casefold():
        return "which is the graph itself"
    return None


def _number(text: str, key: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"has external data whose {key} {text[:40]!r} is not a number of bytes")
    return int(text)


def size(folder: Path, location: str, graph: Path) -> int:
    """The size of the side file at a location in bytes; raises ValueError unless it is a regular file of its own.

    No component of the location may be a link, which could lead out of the folder.
    """
    path = folder
    try:
        for part in location.split("/"):
            path /= part
            state = path.lstat()
            if stat.S_ISLNK(state.st_mode):
                raise ValueError(f"{path} is a link")
    except OSError as error:
        raise ValueError(f"{path.name[:80]} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if state.st_ino and path.samefile(graph):
        raise ValueError(f"{path} is the graph itself")
    return state.st_size


def side_file(graph: Path) -> Path:
    """The side file that deploytool writes for the graph in a file, if it needs one."""
    return graph.with_name(graph.name + SUFFIX)


def total_size(graph: Path) -> int:
    """The bytes of a file of deploytool, with the side file that a graph may have."""
    side = side_file(graph)
    return graph.stat().st_size + (side.stat().st_size if side.is_file() else 0)


def check_ranges(references: Iterable[tuple[Reference, int]], sizes: Mapping[str, int]) -> None:
    """Raises ValueError unless every reference, given with the bytes of its tensor, has a range of its own in its file.

    `sizes` are the sizes of the side files in bytes by location.
    """
    ranges: dict[str, list[tuple[int, int, str]]] = {}
    for stated, needed in references:
        available = sizes[stated.location] - stated.offset
        length = available if stated.length is None else stated.length
        if length > available:
            raise ValueError(f"{stated.tensor} ends beyond the end of {stated.location}")
        if length != needed:
            raise ValueError(f"{stated.tensor} takes {needed} bytes, and {length} are stated in {stated.location}")
        if length:
            ranges.setdefault(stated.location, []).append((stated.offset, stated.offset + length, stated.tensor))
    for location, of_file in ranges.items():
        of_file.sort()
        for (_, end, one), (start, _, other) in pairwise(of_file):
            if start < end:
                raise ValueError(f"{one} and {other} overlap in {location}")
