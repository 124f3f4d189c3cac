"""Finds the arithmetic on sizes, positions, counts and masks, which stays in FP32 where a type has few whole numbers.

BF16 has whole numbers up to 256: a length of 300 or a sum of a mask would be another number. What such arithmetic gives
is cast where it meets what the model computes from its floating-point inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
from onnx import NodeProto

from deploytool.precision.positional import COMPUTING, MOVING, PositionalGraph, is_lookup

_REDUCING = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
_SELECTING = ("ArgMax", "ArgMin", "NonZero", "TopK")  # their last output is indices
_COMPARING = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor")


def find(model: onnx.ModelProto, among: Sequence[str]) -> frozenset[str]:
    """The nodes `among` that compute with whole numbers: sizes, integer inputs, indices, and results of comparisons."""
    graph = PositionalGraph(model)
    known, found = set(graph.positional), set[str]()
    constant = {"", *(weight.name for weight in model.graph.initializer)}
    for node in graph.nodes:
        if node.op_type == "Constant":
            constant.update(node.output)
        if node.op_type in _SELECTING:
            known.add(node.output[-1])
        elif node.op_type in _COMPARING:
            known.update(node.output)
        arithmetic = node.op_type in (*COMPUTING, *MOVING, *_REDUCING) and not is_lookup(node, graph)
        if not arithmetic or not known.issuperset(node.input):
            continue
        known.update(node.output)
        if _is_constant(node, constant):
            constant.update(node.output)
        else:
            found.add(node.name)
    return frozenset(found.intersection(among))


def _is_constant(node: NodeProto, constant: Collection[str]) -> bool:
    """Whether a node computes from weights alone, or gives one another shape; a running sum of ones is positions."""
    values = node.input[:1] if node.op_type in MOVING else node.input
    return node.op_type != "CumSum" and bool(values) and all(name in constant for name in values)
