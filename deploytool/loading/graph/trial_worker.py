"""Runs a given graph with ONNX Runtime in a child process, which a hostile file can crash or keep busy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

_FATAL = 4  # log severity


def main() -> None:
    """Writes the shapes of the outputs for each set of inputs, up to one that fails, and its message, as JSON.

    The task on stdin is the path of the graph, the paths of .npz files with the inputs in order, and the path of the
    result. A graph that cannot be loaded ends the process with ONNX Runtime's own error.
    """
    import numpy as np
    import onnxruntime as ort

    path, files, result = json.loads(sys.stdin.readline())
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    shapes, failure = [], ""
    for file in files:
        with np.load(file) as arrays:
            feeds = {name: arrays[f"arr_{number}"] for number, name in enumerate(names)}
        try:
            outputs = session.run(None, feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            failure = " ".join(str(error).split())
            break
        shapes.append([list(array.shape) for array in outputs])
    with Path(result).open("w", encoding="utf-8") as file:
        json.dump({"shapes": shapes, "failure": failure}, file)
