"""Converts a graph to another opset with onnx in a child process, which the converter can crash."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Writes the converted graph; the task on stdin is the path of the graph, that of the result, and the opset."""
    import onnx
    from onnx import version_converter

    graph, result, opset = json.loads(sys.stdin.readline())
    onnx.save(version_converter.convert_version(onnx.load(graph), opset), result)
