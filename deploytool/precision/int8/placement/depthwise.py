"""Depthwise convolutions: in INT8 on CPUs, in FP16 in TensorRT.

ONNX Runtime runs them in INT8, and MixNet-S takes 1.5 times as long if they stay FP32 (AVX2, one thread). OpenVINO runs
those with small windows faster in INT8: MobileNet v1, of 3 by 3, takes 1.09 times as long if they stay FP32, and
MixNet-S 0.96 times as long if those from 7 by 7 on do (AVX-512 with VNNI, one thread). TensorRT-RTX 1.7 widens each
channel to four in INT8: MobileNet v1 then reads and writes 74 MB instead of 54 MB, with as many kernels.
"""

from __future__ import annotations

from onnx import NodeProto

from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.editable import EditableGraph

_LARGE = 7


def allows(node: NodeProto, graph: EditableGraph, form: Form) -> bool:
    """Whether a node is no depthwise convolution, or the form computes these in INT8."""
    conv = convolution.read(graph, node)
    return not form.for_engines or conv is None or not conv.is_depthwise()


def has_large_window(node: NodeProto, graph: EditableGraph) -> bool:
    """Whether a node is a depthwise convolution whose window is large enough to be slower in OpenVINO's INT8."""
    conv = convolution.read(graph, node)
    return conv is not None and conv.is_depthwise() and min(conv.kernel) >= _LARGE
