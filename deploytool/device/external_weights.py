"""Refuses ONNX graphs with external weights, which no manifest lists; reads the graph without onnx.

ONNX Runtime resolves external weights from the working folder if the graph is passed as bytes, and would load files
whose digest was never checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deploytool.errors import Refused
from deploytool.host import files

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf
_MODEL, _TRAINING, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION, _SPARSE, _TENSOR = range(8)
_NESTED: Mapping[int, Mapping[int, int]] = {  # by message: the message type of its fields, by number (onnx.proto)
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor


def refuse(graph: bytes, path: object) -> None:
    """Raises Refused for a graph with external weights, or for bytes that are no ONNX graph; `path` names it."""
    view = memoryview(graph)
    pending = [(_MODEL, 0, len(view))]  # messages still to be read: type, first byte, end
    try:
        while pending:
            message, begin, end = pending.pop()
            for field, wire, start, stop in _fields(view, begin, end):
                is_location = field == _DATA_LOCATION and view[start] != 0
                if message == _TENSOR and (field == _EXTERNAL_DATA or is_location):
                    raise Refused(f"{path} has external weights, which no manifest lists", files.FETCH_AGAIN)
                if wire == _LENGTH_DELIMITED and (nested := _NESTED[message].get(field)) is not None:
                    pending.append((nested, start, stop))
    except (IndexError, ValueError) as error:
        raise Refused(f"{path} is not an ONNX graph", files.FETCH_AGAIN) from error


def _fields(view: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, first byte and end of the value of each field of a message."""
    position = begin
    while position < end:
        key, position = _varint(view, position)
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
