"""Fault: positions are off by one: a table of positions is shifted by a row, or a relative bias by a key."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import attention, boxes
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_VIEWS = ("Slice", "Expand", "Cast", "Unsqueeze", "Squeeze", "Identity", "Gather", "Reshape", "Tile", "Flatten")
_DEPTH = 5


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Two faults, one in each direction, for every constant table that is added to tokens or to scores."""
    grids = {name for _, name in boxes.constants(graph)}
    tables = {name: -2 for node in graph.nodes("Add") for name in _tables(graph, node) if name not in grids}
    for found in attention.find(graph):
        tables |= {name: -1 for _, name in attention.biased_steps(graph, found)}
    candidates = [_fault(graph, name, axis, by) for name, axis in tables.items() for by in (1, -1)]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _tables(graph: FaultGraph, node: onnx.NodeProto) -> list[str]:
    """The tables of positions that an addition adds to tokens: a row for each token, the columns of a token."""
    if len(node.input) != 2 or node.output[0] in attention.score_steps(graph):
        return []
    sources = [_source(graph, name, _DEPTH) for name in node.input]
    tables = [name for name in sources if graph.has_weight(name)]
    if len(tables) != 1 or len(graph.shapes.get(node.output[0], [])) < 3:
        return []
    values = graph.weight(tables[0])
    is_table = values.dtype.kind == "f" and values.ndim > 1 and values.shape[-2] > 1 and values.shape[-1] > 1
    return tables if is_table else []


def _source(graph: FaultGraph, tensor: str, depth: int) -> str:
    """The tensor of which this one is a view; rows chosen by an input of the graph are no view."""
    node = graph.producer(tensor)
    if node is not None and depth and node.op_type == "Concat":
        sources = [_source(graph, name, depth - 1) for name in node.input]
        return sources[0] if all(map(graph.has_weight, sources)) else tensor
    if node is None or not depth or node.op_type not in _VIEWS:
        return tensor
    if node.op_type == "Gather" and _varies(graph, node.input[1], _DEPTH):
        return tensor
    return _source(graph, node.input[0], depth - 1)


def _varies(graph: FaultGraph, tensor: str, depth: int) -> bool:
    """Whether indices depend on the values of an input, not on its shape alone."""
    node = graph.producer(tensor)
    if node is None:
        return not graph.has_weight(tensor)
    if node.op_type in ("Shape", "Size", "Range"):
        return False
    return not depth or any(_varies(graph, name, depth - 1) for name in node.input)


def _fault(graph: FaultGraph, name: str, axis: int, by: int) -> Fault:
    values = graph.weight(name)
    shifted = np.roll(values, by, axis)
    same = "all positions are equal" if np.array_equal(values, shifted) else None
    return Fault(name, lambda faulty: faulty.put(name, shifted), float(by), same)
