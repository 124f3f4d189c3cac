"""Prints the newest IR version and opset that the ONNX Runtime here reads, as JSON; needs nothing but onnxruntime.

It loads a graph of one Relu with each of them. The graph is written byte by byte: the environment has no onnx.
"""

from __future__ import annotations

import json

import onnxruntime as ort

_VARINT, _BYTES = 0, 2  # wire types of protobuf


def _varint(number: int) -> bytes:
    """A number in the encoding of protobuf: seven bits in a byte, the lowest first."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _message(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | _BYTES) + _varint(len(data)) + data


def graph(ir_version: int, opset: int) -> bytes:
    """A model with y = Relu(x), of one float."""
    kind = _message(2, _message(1, _number(1, 1) + _message(2, _message(1, _number(1, 1)))))
    node = _message(1, "x") + _message(2, "y") + _message(4, "Relu")
    body = _message(1, node) + _message(2, "g") + _message(11, _message(1, "x") + kind)
    body += _message(12, _message(1, "y") + kind)
    return _number(1, ir_version) + _message(7, body) + _message(8, _message(1, "") + _number(2, opset))


def _loads(ir_version: int, opset: int) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(graph(ir_version, opset), options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime's exceptions share no base class of their own
        return False
    return True


if __name__ == "__main__":
    ir_version = max(version for version in range(3, 30) if _loads(version, 11))
    opset = max(version for version in range(7, 60) if _loads(ir_version, version))
    print(json.dumps([ort.__version__, ir_version, opset]))
