"""Convolutions of squeeze-and-excite gates, which see one value a channel: in INT8 on CPUs, in FP16 in TensorRT.

With gates in FP32 the whole map is dequantized for the pooling before them: MixNet-S takes 1.19 times as long in ONNX
Runtime (AVX2, one thread), though 0.83 times as long in OpenVINO, where it is the slower all the same. TensorRT-RTX 1.7
fuses a gate in FP16 with its neighbours, and needs 214 kernels instead of 188 with gates in INT8.
"""

from __future__ import annotations

from onnx import NodeProto

from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph.editable import EditableGraph


def allows(node: NodeProto, graph: EditableGraph, form: Form) -> bool:
    """Whether a convolution sees more than one position, or the form computes gates in INT8."""
    shape = graph.shape(node.input[0])
    return not form.for_engines or node.op_type != "Conv" or not shape or any(size != 1 for size in shape[2:])
