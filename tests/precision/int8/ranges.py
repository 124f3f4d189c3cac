"""The ranges of all tensors of a graph, measured by ONNX Runtime without optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from deploytool.precision.int8.value_range import ValueRange


def all_values(graph: onnx.ModelProto, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The values of the inputs and of every tensor that a node produces."""
    probed, options = onnx.ModelProto(), ort.SessionOptions()
    probed.CopyFrom(graph)
    outputs = {value.name for value in probed.graph.output}
    names = [name for node in probed.graph.node for name in node.output if name and name not in outputs]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(probed.SerializeToString(), options)
    found = [value.name for value in session.get_outputs()]
    return {**inputs, **dict(zip(found, session.run(found, dict(inputs)), strict=True))}


def measured_ranges(graph: onnx.ModelProto, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, ValueRange]:
    values = all_values(graph, inputs)
    return {
        name: ValueRange(float(array.min()), float(array.max()))
        for name, array in values.items()
        if array.dtype == np.float32
    }
