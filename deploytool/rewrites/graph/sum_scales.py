"""Weights whose scales differ within a sum, in products of integers: no integer kernel can apply such scales.

The terms of such a sum have different units, so it cannot be added in integers. ONNX Runtime 1.31 fuses the nodes
nevertheless. It then fails at the first call, or, where the axis has as many elements as that of the outputs, takes the
scales for those of the outputs, and answers wrongly: by 27 to 77 % of the largest output in tests.

A MatMul of such weights is right with the same weights as floats. A Conv or Gemm is not, since ONNX Runtime quantises
its floats again, by one scale for all.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto

from deploytool.errors import BadInput
from deploytool.rewrites.graph import quantised_weights
from deploytool.rewrites.graph.editable import Array, EditableGraph, attributes

_REMEDY = "quantise its weights again with one scale for each output: axis {axis} of its DequantizeLinear node"


def check(model: ModelProto) -> None:
    """Raises BadInput for a Conv or Gemm with such weights that ONNX Runtime fuses."""
    graph = EditableGraph(model)
    for node in graph.nodes:
        dequantize = _sums_along(graph, node) if node.op_type in ("Conv", "Gemm") else None
        if dequantize is not None and _is_fused(graph, node, dequantize):
            what = f"the weights of the {node.op_type} {node.name or node.output[0]}"
            problem = f"{what} have several scales within a sum, which no sum of integers can have"
            raise BadInput(problem, _REMEDY.format(axis=_output_axis(node, _codes(graph, dequantize).ndim)))


def dequantised(model: ModelProto) -> ModelProto:
    """The graph in which such weights of each MatMul are floats, which computes the same; the graph itself without."""
    graph = EditableGraph(model)
    found = [(node, dequantize) for node in graph.nodes if (dequantize := _sums_along(graph, node)) is not None]
    products = [(node, dequantize) for node, dequantize in found if node.op_type == "MatMul"]
    for node, dequantize in products:
        product = NodeProto()
        product.CopyFrom(node)
        product.input[1] = graph.add_weight(f"{dequantize.output[0]}/dequantised", _values(graph, dequantize))
        graph.replace([node], [product])
    return graph.to_model() if products else model


def _sums_along(graph: EditableGraph, node: NodeProto) -> NodeProto | None:
    """What dequantises the weights of a product of integers by several scales within a sum; None for other nodes."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    left, right = (graph.producer(name) for name in node.input[:2])
    if left is None or right is None or {left.op_type, right.op_type} != {"DequantizeLinear"}:
        return None
    codes, scale = quantised_weights.codes(graph, right.input[0]), graph.constant(right.input[1])
    if codes is None or scale is None or scale.ndim != 1 or scale.size == 1 or attributes(right).get("block_size", 0):
        return None
    return right if _axis(right) % codes.ndim != _output_axis(node, codes.ndim) else None


def _output_axis(node: NodeProto, rank: int) -> int:
    """The axis of the outputs in the weights of a product."""
    return 0 if node.op_type == "Conv" or attributes(node).get("transB", 0) else rank - 1


def _codes(graph: EditableGraph, dequantize: NodeProto) -> Array:
    """The integers of weights that are known to be constant."""
    codes = quantised_weights.codes(graph, dequantize.input[0])
    assert codes is not None
    return codes


def _axis(node: NodeProto) -> int:
    return int(attributes(node).get("axis", 1))


def _is_fused(graph: EditableGraph, node: NodeProto, dequantize: NodeProto) -> bool:
    """Whether ONNX Runtime makes one kernel of a Conv or Gemm and what dequantises its inputs."""
    if node.op_type == "Gemm":
        rows, columns = _codes(graph, dequantize).shape
        return bool(rows == columns)
    reader = graph.only_consumer(node.output[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def _values(graph: EditableGraph, node: NodeProto) -> Array:
    """The weights that a node dequantises."""
    codes, scale = _codes(graph, node), graph.constant(node.input[1])
    assert scale is not None
    given = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    zero = np.zeros((), np.int32) if given is None else given.astype(np.int32)
    whole = codes.astype(np.int32) - quantised_weights.along(zero, _axis(node), codes.ndim)
    factors = quantised_weights.along(scale, _axis(node), codes.ndim).astype(np.float32)
    return np.asarray((whole.astype(np.float32) * factors).astype(scale.dtype))
