"""Reads which weights of an ONNX graph are in side files, without onnx, and takes them from verified side files only.

ONNX Runtime resolves external weights from the working folder if the graph is passed as bytes, and from the folder of
the graph if it is passed as a path; either way it would load bytes whose digest was never checked, or that were
replaced since. So each weight is taken here from bytes with the digest that the manifest states, and is passed beside
the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploytool.backends.session import Array
from deploytool.device.candidates import Candidate, SideFile
from deploytool.errors import Refused
from deploytool.host import files, side_files
from deploytool.host.side_files import Reference

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf
_MODEL, _TRAINING, _MAIN, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION, _SPARSE, _WEIGHT, _TENSOR = range(10)
_NESTED: Mapping[int, Mapping[int, int]] = {  # by message: the message type of its fields, by number (onnx.proto)
    _MODEL: {7: _MAIN, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _MAIN: {1: _NODE, 5: _WEIGHT, 15: _SPARSE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _WEIGHT: {},
    _TENSOR: {},
}
_DIMS, _TYPE, _NAME, _EXTERNAL_DATA, _LOCATION = 1, 2, 8, 13, 14  # fields of a tensor
_VALUES = (4, 5, 6, 7, 9, 10, 11)  # fields of a tensor with its values
_EXTERNAL = 1  # value of the field _LOCATION
_MAX_AXES, _MAX_ELEMENTS = 32, 1 << 60  # numpy refuses more, and also where another axis has no elements


@dataclass(frozen=True)
class ExternalWeight:
    """A weight of the main graph with its values in a side file."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    reference: Reference


def load(candidate: Candidate, graph: bytes) -> dict[str, Array]:
    """The external weights of a candidate's graph by name, from the side files that the manifest lists.

    Raises Refused if the graph is invalid, or if a weight is outside of these files; reads each file once, and verifies
    the bytes that it returns.
    """
    found = find(graph, candidate.path)
    sides = _listed(candidate, found)
    buffers = {location: _read(side) for location, side in sides.items()}
    return {weight.name: _values(weight, buffers[weight.reference.location]) for weight in found}


def copy(candidate: Candidate, graph: bytes, folder: Path) -> Path:
    """Writes a candidate's graph and its verified side files to a folder, for a library that reads files only."""
    found = find(graph, candidate.path)
    for location, side in _listed(candidate, found).items():
        target = folder / location
        target.parent.mkdir(parents=True, exist_ok=True)
        files.verify_file(Path(side.path), side.size, side.sha256, target)
    path = folder / Path(candidate.path).name
    path.write_bytes(graph)
    return path


def _listed(candidate: Candidate, found: Sequence[ExternalWeight]) -> dict[str, SideFile]:
    """The side files of the weights by location; raises Refused if one is not listed, or a range lies outside."""
    folder, by_path = Path(candidate.path).parent, {side.path: side for side in candidate.weights}
    locations = {weight.reference.location for weight in found}
    sides = {at: by_path[str(folder / at)] for at in sorted(locations) if str(folder / at) in by_path}
    if len(sides) < len(locations):
        raise Refused(f"{candidate.path} has external weights, which no manifest lists", files.FETCH_AGAIN)
    needed = [(weight.reference, math.prod(weight.shape) * weight.dtype.itemsize) for weight in found]
    try:
        side_files.check_ranges(needed, {location: side.size for location, side in sides.items()})
    except ValueError as error:
        raise Refused(f"{candidate.path} cannot be used: {error}", files.FETCH_AGAIN) from error
    return sides


def _read(side: SideFile) -> Array:
    """The bytes of a side file, verified; in memory once."""
    path, buffer, end = Path(side.path), np.empty(side.size, np.uint8), 0
    with files.open_file(path) as opened:
        for block in files.verified_blocks(opened, path, side.size, side.sha256):
            if end + len(block) <= side.size:  # a longer file is refused after its last block
                buffer[end : end + len(block)] = np.frombuffer(block, np.uint8)
            end += len(block)
    return buffer


def _values(weight: ExternalWeight, buffer: Array) -> Array:
    start = weight.reference.offset
    stop = start + math.prod(weight.shape) * weight.dtype.itemsize
    return buffer[start:stop].view(weight.dtype).reshape(weight.shape)


def find(graph: bytes, path: str) -> tuple[ExternalWeight, ...]:
    """The weights of a graph that are in side files; `path` names the graph.

    Raises Refused for bytes that are no ONNX graph, and for external weights that are invalid or not in the main graph.
    """
    view, found = memoryview(graph), list[ExternalWeight]()
    pending = [(_MODEL, 0, len(view))]  # messages still to be read: type, first byte, end
    try:
        while pending:
            message, begin, end = pending.pop()
            if message in (_WEIGHT, _TENSOR):
                weight = _external_weight(view, begin, end, Path(path).name)
                found += [weight] if weight else []
                if weight and message == _TENSOR:
                    raise Refused(f"{path} has external weights outside of its main graph", files.FETCH_AGAIN)
                continue
            for field, wire, start, stop in _fields(view, begin, end):
                if wire == _LENGTH_DELIMITED and (nested := _NESTED[message].get(field)) is not None:
                    pending.append((nested, start, stop))
    except (IndexError, UnicodeDecodeError) as error:
        raise Refused(f"{path} is not an ONNX graph", files.FETCH_AGAIN) from error
    except ValueError as error:
        raise Refused(f"{path} is not an ONNX graph: {error}", files.FETCH_AGAIN) from error
    if len({weight.name for weight in found}) < len(found):
        raise Refused(f"{path} has two external weights of one name", files.FETCH_AGAIN)
    return tuple(found)


def _external_weight(view: memoryview, begin: int, end: int, graph: str) -> ExternalWeight | None:
    """A tensor if it is in a side file, else None; raises ValueError if it is invalid."""
    numbers: dict[int, list[int]] = {_DIMS: [], _TYPE: [], _LOCATION: []}
    texts: dict[int, list[str]] = {_NAME: []}
    entries, has_values = list[tuple[str, str]](), False
    for field, wire, start, stop in _fields(view, begin, end):
        if field == _EXTERNAL_DATA:
            entries.append(_entry(view, start, stop))
        elif field in numbers:
            numbers[field] += _numbers(view, wire, start, stop)
        elif field == _NAME:
            texts[_NAME].append(str(view[start:stop], "utf-8"))
        has_values = has_values or field in _VALUES
    if not entries and numbers[_LOCATION] in ([], [0]):
        return None
    if numbers[_LOCATION] != [_EXTERNAL] or has_values or len(texts[_NAME]) != 1 or len(numbers[_TYPE]) != 1:
        raise ValueError("a weight contradicts itself")
    (name,), (kind,) = texts[_NAME], numbers[_TYPE]
    if any(key == "checksum" for key, _ in entries):
        raise ValueError(f"{name} states a digest beside the one of the manifest")
    too_many = len(numbers[_DIMS]) > _MAX_AXES or math.prod(size or 1 for size in numbers[_DIMS]) >= _MAX_ELEMENTS
    if kind not in side_files.ELEMENT_TYPES or too_many:
        raise ValueError(f"{name} cannot be outside of the graph")
    dtype, shape = np.dtype(side_files.ELEMENT_TYPES[kind]), tuple(numbers[_DIMS])
    return ExternalWeight(name, dtype, shape, side_files.reference(name, entries, graph))


def _entry(view: memoryview, begin: int, end: int) -> tuple[str, str]:
    """A key and a value of external data."""
    pair: dict[int, str] = {}
    for field, _, start, stop in _fields(view, begin, end):
        if field in pair:
            raise ValueError("an entry contradicts itself")
        pair[field] = str(view[start:stop], "utf-8")
    return pair.get(1, ""), pair.get(2, "")


def _numbers(view: memoryview, wire: int, start: int, stop: int) -> list[int]:
    """The numbers of a field: one, or several packed ones."""
    if wire == _VARINT:
        return [_varint(view, start)[0]]
    if wire != _LENGTH_DELIMITED:
        raise ValueError("a number has another type")
    numbers, position = list[int](), start
    while position < stop:
        number, position = _varint(view, position)
        numbers.append(number)
    return numbers


def _fields(view: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, first byte and end of the value of each field of a message."""
    position = begin
    while position < end:
        key, position = _varint(view, position)
        if key >= 1 << 32:  # ONNX Runtime's parser drops the upper bits, and would see another field
            raise ValueError("a field has an invalid number")
        start, wire = position, key & 7
        if wire == _VARINT:
            _, position = _varint(view, position)
        elif wire == _LENGTH_DELIMITED:
            length, start = _varint(view, position)
            position = start + length
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("unknown wire type")
        if position > end:
            raise ValueError("a field is longer than its message")
        yield key >> 3, wire, start, position


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits per byte, and the position after it."""
    value = shift = 0
    while shift < 70:
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too long")
