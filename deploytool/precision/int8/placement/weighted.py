"""Heavy nodes: convolutions and products with constant weights, which have INT8 kernels everywhere.

A transposed convolution stays as it is, because ONNX Runtime has no INT8 kernel for one; so do products of two
activations, whose sums over many values of both signs lose most in 8 bits.
"""

from __future__ import annotations

from onnx import NodeProto

from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph.editable import EditableGraph, attributes

_DIMENSIONS = {"Conv": (3, 4, 5), "Gemm": (2,), "MatMul": (2,)}  # of the weights
_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0}  # of a Gemm with an INT8 kernel


def allows(node: NodeProto, graph: EditableGraph, form: Form) -> bool:
    """Whether a node multiplies by constant FP32 weights, and adds constants only."""
    if node.op_type not in _DIMENSIONS:
        return False
    weight = graph.constant(node.input[1])
    if weight is None or weight.ndim not in _DIMENSIONS[node.op_type] or weight.dtype != "float32":
        return False
    bias = graph.constant(node.input[2]) if has_bias(node) else None
    if has_bias(node) and (bias is None or bias.shape != (weight.shape[channel_axis(node)],)):
        return False
    settings = attributes(node)
    return node.op_type != "Gemm" or all(settings.get(name, value) == value for name, value in _PLAIN.items())


def has_bias(node: NodeProto) -> bool:
    """Whether a heavy node adds a bias."""
    return len(node.input) > 2 and bool(node.input[2])


def channel_axis(node: NodeProto) -> int:
    """The axis of a heavy node's weights that numbers its output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attributes(node).get("transB", 0) else 1
