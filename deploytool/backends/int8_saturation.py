"""Products of UINT8 activations and INT8 weights on x86 processors without VNNI, whose sums of two saturate at 16 bits.

There the kernels of ONNX Runtime multiply pairs of neighbouring terms with one instruction, which adds the two products
in 16 bits with saturation; the sums of pairs are then added in 32 bits. Weights of 7 bits never saturate, and neither
do UINT8 weights, which other instructions multiply. INT8 activations are no remedy: where ONNX Runtime fuses a Q/DQ
graph on x86, it makes them UINT8.
Source: VPMADDUBSW in the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from deploytool.rewrites.graph import quantised_weights
from deploytool.rewrites.graph.editable import EditableGraph, attributes

_ENDS = np.iinfo(np.int16)
_LARGEST = 255  # a UINT8 activation


def may_saturate(weights: npt.NDArray[Any], axis: int = 0) -> bool:
    """Whether two INT8 weights of one slice along the axis can give more than 16 bits, wherever they stand."""
    slices = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).astype(np.int64)
    if not slices.size:
        return False
    slices = np.pad(slices, ((0, 0), (0, 2)))
    ordered = np.sort(slices, axis=1)
    lowest, highest = ordered[:, :2].sum(axis=1).min(), ordered[:, -2:].sum(axis=1).max()
    return bool(_LARGEST * highest > _ENDS.max or _LARGEST * lowest < _ENDS.min)


def saturating_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """The layers of a graph with Q/DQ nodes whose sums may saturate without VNNI, by name or else first output.

    They do so in ONNX Runtime's fused kernels, and not after `onnxruntime.forbid_saturation`, which makes their weights
    UINT8.
    """
    graph = EditableGraph(model)
    return tuple(node.name or node.output[0] for node in graph.nodes if _layer_may_saturate(graph, node))


def _layer_may_saturate(graph: EditableGraph, node: NodeProto) -> bool:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return False
    settings, (left, right) = attributes(node), (graph.producer(tensor) for tensor in node.input[:2])
    dequantised = all(each is not None and each.op_type == "DequantizeLinear" for each in (left, right))
    if not dequantised or left is None or right is None or settings.get("group", 1) > 1:
        return False
    zero = graph.constant(left.input[2]) if len(left.input) > 2 else np.zeros((), np.uint8)
    weights = quantised_weights.codes(graph, right.input[0])
    if zero is None or zero.dtype not in (np.uint8, np.int8) or weights is None or weights.dtype != np.int8:
        return False
    outputs_first = node.op_type == "Conv" or settings.get("transB", 0)
    return may_saturate(weights, 0 if outputs_first else weights.ndim - 1)
