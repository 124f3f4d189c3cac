"""The implementation of each operator in torch, by domain and name."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.errors import StageFailed
from deploytool.loading.graph import structure
from deploytool.loading.graph.op import Op, Operator
from deploytool.loading.graph.operators import (
    activations,
    arithmetic,
    attention,
    control_flow,
    convolution,
    detection,
    indexing,
    microsoft,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    resize,
    shapes,
    signals,
)

_MICROSOFT = "com.microsoft"
_STANDARD = ("", "ai.onnx")

_GROUPS = (
    *(activations, arithmetic, attention, control_flow, convolution, detection, indexing, normalization, pooling),
    *(quantization, recurrent, reductions, resize, shapes, signals),
)
_OPERATORS: Mapping[str, Operator] = {name: function for group in _GROUPS for name, function in group.OPERATORS.items()}


def find(op: Op) -> Operator | None:
    """The implementation of a node; None if torch has none. Raises StageFailed for a node that draws random numbers."""
    if op.node.domain == _MICROSOFT:
        return microsoft.OPERATORS.get(op.node.op_type)
    if op.node.domain not in _STANDARD:
        return None
    if op.node.op_type in structure.RANDOM:
        problem = f"the node {op.label} draws random numbers, so that no two runs of the graph agree"
        raise StageFailed(problem, "make its values an input of the graph, or export in evaluation mode")
    if op.node.op_type == "SimplifiedLayerNormalization":  # ONNX Runtime writes it in the standard domain
        return microsoft.OPERATORS[op.node.op_type]
    return _OPERATORS.get(op.node.op_type)
