"""Grouped convolutions: in INT8 everywhere, and in FP16 where others are FP8.

The kernels in FP8 of TensorRT-RTX 1.7 add the bias and compute the activation, but not those of grouped convolutions,
which another kernel follows: ShuffleNet with 3 groups needs 106 kernels instead of 90, and reads and writes 30.0 MB
instead of 28.3 MB.
"""

from __future__ import annotations

from onnx import NodeProto

from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph.editable import EditableGraph, attributes


def allows(node: NodeProto, graph: EditableGraph, form: Form) -> bool:
    """Whether a node is no grouped convolution, or the form computes these in 8 bits."""
    return form is not Form.E4M3 or node.op_type != "Conv" or attributes(node).get("group", 1) == 1
