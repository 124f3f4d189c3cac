"""Convolutions with large kernels: in INT8 everywhere, and in FP16 where others are FP8.

TensorRT-RTX 1.7 has kernels in FP8 for convolutions with up to 32 places, as of 5×6, 1×32 or 3×3×3. It dequantises the
weights of larger ones, such as 7×7 or the patches of a transformer, with a kernel of its own, and computes in FP16.
"""

from __future__ import annotations

import math

from onnx import NodeProto

from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph.editable import EditableGraph

_MOST = 32  # places in the kernel


def allows(node: NodeProto, graph: EditableGraph, form: Form) -> bool:
    """Whether a node is no convolution, or the form computes those of its size."""
    weight = graph.constant(node.input[1]) if form is Form.E4M3 and node.op_type == "Conv" else None
    return weight is None or math.prod(weight.shape[2:]) <= _MOST
