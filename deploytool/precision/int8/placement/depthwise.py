"""Depthwise convolutions: in INT8 on CPUs, in FP16 in TensorRT.

ONNX Runtime runs them in INT8, and MixNet-S takes 1.5 times as long if they stay FP32 (AVX2, one thread); OpenVINO runs
them too, MobileNet v1 4 % faster, but MixNet-S, with its large kernels, 1.3 times slower. TensorRT-RTX 1.7 widens each
channel to four in INT8: MobileNet v1 then reads and writes 74 MB instead of 54 MB, with as many kernels.
"""

from __future__ import annotations

from onnx import NodeProto

from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.editable import EditableGraph


def allows(node: NodeProto, graph: EditableGraph, form: Form) -> bool:
    """Whether a node is no depthwise convolution, or the form computes these in INT8."""
    conv = convolution.read(graph, node)
    return form is not Form.TENSORRT or conv is None or not conv.is_depthwise()
