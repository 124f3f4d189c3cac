"""Finds the bounds of integer inputs that index tables: token ids must be rows of the table that they look up."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import GraphProto, NodeProto

from deploytool.loading.graph import structure

_SAME_VALUES = ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice", "Expand")
_SAME_TABLE = ("Identity", "Cast", "DequantizeLinear")  # operators that leave the number of rows unchanged
_MAX_STEPS = 32


def find(graph: GraphProto) -> dict[str, int]:
    """The number of rows of the smallest table that an input indexes, by the input's name."""
    producers = {output: node for node in structure.nodes(graph, "the graph") for output in node.output if output}
    tables = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    names = {value.name for value in structure.inputs(graph)}
    bounds: dict[str, int] = {}
    for node in structure.nodes(graph, "the graph"):
        if node.op_type not in ("Gather", "GatherND", "OneHot") or len(node.input) < 2:
            continue
        table, indices = node.input[:2] if node.op_type != "OneHot" else (node.input[1], node.input[0])
        rows = _depth(producers, graph, table) if node.op_type == "OneHot" else _rows(node, producers, tables, table)
        source = _source(producers, indices, _SAME_VALUES)
        if rows and source in names:
            bounds[source] = min(rows, bounds.get(source, rows))
    return bounds


def _rows(
    node: NodeProto, producers: Mapping[str, NodeProto], tables: Mapping[str, tuple[int, ...]], table: str
) -> int:
    """The number of rows of a table along the axis that is indexed; 0 if it is not constant."""
    name = _source(producers, table, _SAME_TABLE)
    shape = tables.get(name)
    constant = producers.get(name)
    if shape is None and constant is not None and constant.op_type == "Constant" and constant.attribute:
        shape = tuple(constant.attribute[0].t.dims)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return shape[axis] if shape and -len(shape) <= axis < len(shape) else 0


def _depth(producers: Mapping[str, NodeProto], graph: GraphProto, name: str) -> int:
    """The constant depth of a OneHot; 0 if it is not constant."""
    constants = {weight.name: weight for weight in graph.initializer}
    node = producers.get(name)
    if node is not None and node.op_type == "Constant" and node.attribute:
        constants[name] = node.attribute[0].t
    try:
        return int(onnx.numpy_helper.to_array(constants[name]).reshape(-1)[0])
    except (KeyError, IndexError, ValueError, TypeError):
        return 0


def _source(producers: Mapping[str, NodeProto], name: str, through: tuple[str, ...]) -> str:
    """The tensor that a tensor is made from by operators of `through` alone."""
    for _ in range(_MAX_STEPS):
        node = producers.get(name)
        if node is None or node.op_type not in through or not node.input:
            break
        name = node.input[0]
    return name
