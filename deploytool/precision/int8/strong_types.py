"""Makes a QDQ graph strongly typed for TensorRT: the nodes outside INT8 in FP16, with a cast where the types meet.

What stands between a DequantizeLinear and the next QuantizeLinear and is computed by an INT8 kernel stays FP32, as it
is: its type costs nothing there (TensorRT-RTX 1.7 lists the same kernels for both types, and its INT8 convolutions
return FP32), no cast separates the nodes that are fused, and scales stay FP32: in FP16
up to a tenth of a model's weight scales would be subnormal.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import NodeProto

from deploytool.precision import fp16
from deploytool.rewrites.graph.editable import EditableGraph

_SCALING = ("QuantizeLinear", "DequantizeLinear")
_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def convert(quantized: onnx.ModelProto, heavy: Collection[str]) -> onnx.ModelProto:
    """The QDQ graph with FP16 outside INT8; `heavy` are the outputs of its heavy nodes in INT8.

    Inputs and outputs keep their types.
    """
    conversion = fp16.convert(quantized, keep_io=True)
    scaling = {node.name for node in conversion.single.graph.node if node.op_type in _SCALING}  # FP16 from opset 19 on
    return conversion.keeping(scaling | _inside(EditableGraph(conversion.single), frozenset(heavy)))


def _inside(graph: EditableGraph, heavy: frozenset[str]) -> frozenset[str]:
    """The names of the nodes that INT8 kernels compute: the heavy ones and the light ones from these up to a Q."""
    ends, found = set[str](), set(heavy)
    for node in reversed(graph.nodes):  # tensors that only lead to a QuantizeLinear, through light nodes
        if all(name not in graph.outputs and _only_ends(graph, name, ends) for name in node.output):
            ends.update(node.output)
    for node in graph.nodes:
        if ends.issuperset(node.output) and _starts_inside(graph, node, found):
            found.update(node.output)
    return frozenset(node.name for node in graph.nodes if found.intersection(node.output))


def _only_ends(graph: EditableGraph, name: str, ends: set[str]) -> bool:
    consumers = graph.consumers(name)
    return bool(consumers) and all(
        node.op_type == "QuantizeLinear" or (node.op_type not in _HEAVY and ends.issuperset(node.output))
        for node in consumers
    )


def _starts_inside(graph: EditableGraph, node: NodeProto, found: set[str]) -> bool:
    """Whether all activations that a light node reads are INT8 values or results of INT8 kernels."""
    if node.op_type in (*_SCALING, *_HEAVY):
        return False
    producers = [graph.producer(name) for name in node.input if name and graph.constant(name) is None]
    return bool(producers) and all(
        producer is not None and (producer.op_type == "DequantizeLinear" or found.intersection(producer.output))
        for producer in producers
    )
