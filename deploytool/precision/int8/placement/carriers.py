"""Light nodes that compute on INT8 values: they run in INT8 where what they read and what follows is INT8.

Otherwise the values would be dequantized before each of them and quantized again after it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from onnx import NodeProto

from deploytool.precision.int8.placement import fused
from deploytool.precision.int8.placement.fused import Fuses
from deploytool.rewrites.graph.editable import EditableGraph

_MOVING = ("MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather")
_COMPUTING = ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool")
_ACTIVATIONS = ("Sigmoid", "LeakyRelu")  # with INT8 kernels in ONNX Runtime


def reached(graph: EditableGraph, quantized: Collection[str], read: Collection[str], fuses: Fuses) -> list[NodeProto]:
    """The light nodes between INT8 results and the INT8 inputs `read` of heavy nodes, in graph order."""
    light = (*_MOVING, *_COMPUTING, *(_ACTIVATIONS if fuses is Fuses.CLIPPING else ()))
    available, found = set(quantized), list[NodeProto]()
    for node in graph.nodes:
        names = activations(node, graph)
        if node.op_type in light and names and available.issuperset(names):
            found.append(node)
            available.update(results(node, graph, fuses))
    needed, kept = set(read), list[NodeProto]()
    for node in reversed(found):
        if needed.intersection(results(node, graph, fuses)):
            kept.append(node)
            needed.update(activations(node, graph))
    return kept[::-1]


def between(nodes: Collection[NodeProto], graph: EditableGraph) -> frozenset[str]:
    """The tensors between two nodes that only move values: OpenVINO fuses such chains, as those of channel shuffles."""
    moving = {node.output[0] for node in nodes if node.op_type in _MOVING}
    readers = {name: graph.consumers(name) for name in moving}
    return frozenset(
        name for name in moving if readers[name] and all(each.output[0] in moving for each in readers[name])
    )


def before(graph: EditableGraph, quantized: Collection[str]) -> list[NodeProto]:
    """The nodes that only move or select values before they are quantized, in graph order."""
    needed, found = set(quantized), list[NodeProto]()
    for node in reversed(graph.nodes):
        if node.op_type in (*_MOVING, "Concat") and needed.issuperset(node.output):
            found.append(node)
            needed.update(activations(node, graph))
    return found[::-1]


def sharing(nodes: Collection[NodeProto], graph: EditableGraph) -> Iterator[tuple[str, str]]:
    """Pairs of tensors with the same values, in another order or less of them, which share a scale."""
    for node in nodes:
        if node.op_type in _MOVING:
            for name in node.output:
                yield node.input[0], name


def activations(node: NodeProto, graph: EditableGraph) -> list[str]:
    """The FP32 inputs of a light node that are not constant."""
    data = node.input if node.op_type in _COMPUTING else node.input[:1]
    return [name for name in data if name and graph.constant(name) is None]


def results(node: NodeProto, graph: EditableGraph, fuses: Fuses) -> list[str]:
    """The tensors in which a light node's results are quantized."""
    return list(node.output) if node.op_type in _MOVING else [fused.end(node, graph, fuses)]
