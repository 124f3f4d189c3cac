"""Opens a graph with ONNX Runtime in a child process, because some graphs crash it.

ONNX Runtime 1.31 optimises some FP16 attention, and a Transpose that moves the batch before a MatMul by a constant,
into a segmentation fault.
"""

from __future__ import annotations

import json
import sys

import onnxruntime


def main() -> None:
    """Opens a session; the task on stdin is the path of the graph and whether to optimise it."""
    graph, optimise = json.loads(sys.stdin.readline())
    options = onnxruntime.SessionOptions()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
