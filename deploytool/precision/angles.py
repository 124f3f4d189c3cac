"""Finds angles and positions, which must be computed in FP32: FP16 has whole numbers up to 2048, and 512.3 is 512.5.

The argument of a sine or cosine (rotary and sinusoidal positions, time steps) needs digits after the point however
large it is. An index computed from sizes and positions (buckets of relative positions) or from other indices (the cell
that has the best of all scores) must be exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import NodeProto, TensorProto

from deploytool.precision.positional import COMPUTING, FLOATS, MOVING, PositionalGraph, is_lookup
from deploytool.rewrites.graph.editable import attributes

_PERIODIC = ("Cos", "Sin")
_SELECTING = ("ArgMax", "ArgMin", "NonZero", "TopK")  # their last output is indices
_PRODUCTS = ("Einsum", "MatMul")  # of positions and frequencies
_DEPTH = 16  # nodes to follow upstream


def find(model: onnx.ModelProto, among: Sequence[str]) -> frozenset[str]:
    """The nodes that compute angles and positions of a graph whose nodes are named, restricted to the nodes `among`."""
    graph, found = PositionalGraph(model), dict[str, NodeProto]()
    indices = _indices(graph)
    for node in graph.nodes:
        if node.op_type in _PERIODIC:
            found |= {node.name: node} | _upstream(node, graph)
        elif _is_index(node, indices):
            found |= _upstream(node, graph)
    return frozenset(found).intersection(among)


def _indices(graph: PositionalGraph) -> frozenset[str]:
    """The tensors that depend on sizes, integers and constants only, and those computed from selected indices too."""
    found = set(graph.positional)
    for node in graph.nodes:
        if node.op_type in _SELECTING:
            found.add(node.output[-1])
        elif node.op_type in (*COMPUTING, *MOVING) and not is_lookup(node, graph) and found.issuperset(node.input):
            found.update(node.output)
    return frozenset(found)


def _is_index(node: NodeProto, indices: frozenset[str]) -> bool:
    """Whether a node makes integers of a float that depends on indices, positions and sizes only."""
    if node.op_type != "Cast" or attributes(node)["to"] in (*FLOATS, TensorProto.BOOL):
        return False
    return node.input[0] in indices


def _upstream(node: NodeProto, graph: PositionalGraph) -> dict[str, NodeProto]:
    """The nodes that compute the argument of a node, back to the first that is no arithmetic of single values."""
    found, level = dict[str, NodeProto](), [node]
    for _ in range(_DEPTH):
        makers = [graph.producer(name) for reader in level for name in reader.input if name]
        level = [maker for maker in makers if maker and maker.name not in found and _computes(maker, graph)]
        found |= {maker.name: maker for maker in level}
    return found


def _computes(node: NodeProto, graph: PositionalGraph) -> bool:
    if node.op_type in _PRODUCTS:
        return graph.positional.issuperset(node.input)
    return node.op_type in COMPUTING or (node.op_type in MOVING and not is_lookup(node, graph))
