"""Finds weights that an ONNX graph would have from files beside it, which no manifest names; read without onnx.

ONNX Runtime looks for such files from the working folder on where a graph is handed to it as bytes: what it would load
there was never hashed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deploytool.errors import Refused
from deploytool.host import files

_NUMBER, _EIGHT, _LONG, _FOUR = 0, 1, 2, 5  # wire types of protobuf
_MODEL, _TRAINING, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION, _SPARSE, _TENSOR = range(8)
_INSIDE: Mapping[int, Mapping[int, int]] = {  # by message: which of its fields hold which messages (onnx.proto)
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor


def refuse(graph: bytes, path: object) -> None:
    """Raises Refused for a graph that has weights elsewhere, or that is no message of protobuf's; `path` names it."""
    view = memoryview(graph)
    todo = [(_MODEL, 0, len(view))]
    try:
        while todo:
            kind, begin, end = todo.pop()
            for field, wire, start, stop in _fields(view, begin, end):
                if kind == _TENSOR and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and view[start] != 0)):
                    raise Refused(f"{path} has weights in a file of their own, which nothing names", files.AGAIN)
                if wire == _LONG and (inner := _INSIDE[kind].get(field)) is not None:
                    todo.append((inner, start, stop))
    except (IndexError, ValueError) as error:
        raise Refused(f"{path} is no ONNX graph", files.AGAIN) from error


def _fields(view: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number and wire type of each field of a message, and where its value begins and ends."""
    at = begin
    while at < end:
        key, at = _varint(view, at)
        start, wire = at, key & 7
        if wire == _NUMBER:
            _, at = _varint(view, at)
        elif wire == _LONG:
            length, start = _varint(view, at)
            at = start + length
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        else:
            raise ValueError("a field has a type that there is not")
        if at > end:
            raise ValueError("a field is longer than what it is in")
        yield key >> 3, wire, start, at


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while shift < 70:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number is longer than any may be")
