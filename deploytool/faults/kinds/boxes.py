"""Finds the boxes that a detector decodes from the results of its last layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from deploytool.faults.kinds.graph import FaultGraph, attribute

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LayerNormalization", "LSTM", "GRU")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_SIDES = 4


@dataclass(frozen=True)
class Pair:
    """A concatenation of two numbers each of two kinds: two corners, or centres and sides.

    `output` is that of the concatenation and `axis` its axis; `centre` and `half` are the operands if it joins their
    difference and their sum, which are the corners, else "".
    """

    output: str
    first: str
    second: str
    axis: int
    centre: str
    half: str


def pairs(graph: FaultGraph) -> list[Pair]:
    """Every pair after the last layers, in graph order."""
    found = []
    behind = _behind_layers(graph)
    for node in graph.nodes("Concat"):
        axis, sizes = attribute(node, "axis"), graph.shapes
        if node.output[0] not in behind or axis is None or len(node.input) < 2 or not _is_float(graph, node):
            continue
        first, second = node.input[:2]
        shapes = [sizes.get(first, []), sizes.get(second, [])]
        if all(len(shape) > 2 and shape[axis.i] == 2 for shape in shapes):
            found.append(Pair(node.output[0], first, second, axis.i, *_centre(graph, first, second)))
    return found


def _is_float(graph: FaultGraph, node: onnx.NodeProto) -> bool:
    """Whether a concatenation is none of sizes: these come from shapes and weights, and are whole numbers."""
    return all(not graph.has_weight(name) or graph.weight(name).dtype.kind == "f" for name in node.input)


def _centre(graph: FaultGraph, first: str, second: str) -> tuple[str, str]:
    """The tensors whose difference and sum these are; empty if they are none."""
    difference, total = graph.producer(first), graph.producer(second)
    if difference is None or total is None or (difference.op_type, total.op_type) != ("Sub", "Add"):
        return "", ""
    same = sorted(difference.input) == sorted(total.input)
    return (str(difference.input[0]), str(difference.input[1])) if same else ("", "")


def outputs(graph: FaultGraph) -> list[str]:
    """The outputs of the graph with four numbers for each of several places."""
    found = []
    for value in graph.model.graph.output:
        sides = [side.dim_value for side in value.type.tensor_type.shape.dim]
        is_float = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        if is_float and len(sides) == 3 and sides[-1] == _SIDES and graph.producer(value.name) is not None:
            found.append(value.name)
    return found


def constants(graph: FaultGraph) -> Iterator[tuple[onnx.NodeProto, str]]:
    """The arithmetic with a constant that leads from the last layers to boxes, each node with its constant."""
    behind, seen = _behind_layers(graph), set[str]()
    waiting = [*(pair.output for pair in pairs(graph)), *outputs(graph)]
    while waiting:
        tensor = waiting.pop()
        node = graph.producer(tensor)
        if node is None or tensor in seen or tensor not in behind or node.op_type in _LAYERS:
            continue
        seen.add(tensor)
        waiting += node.input
        if node.op_type in _ARITHMETIC and not _is_bias(graph, node):
            held = [name for name in node.input if graph.has_weight(name) and graph.weight(name).dtype.kind == "f"]
            yield from ((node, name) for name in held if len(held) < len(node.input))


def _is_bias(graph: FaultGraph, node: onnx.NodeProto) -> bool:
    producers = [producer for name in node.input if (producer := graph.producer(name)) is not None]
    return any(producer.op_type in _LAYERS for producer in producers)


def _behind_layers(graph: FaultGraph) -> set[str]:
    """The tensors that no layer reads, directly or through other nodes."""
    behind: set[str] = set()
    for node in reversed(graph.model.graph.node):
        readers = [reader for output in node.output for reader in graph.consumers(output)]
        if all(reader.op_type not in _LAYERS and set(reader.output) <= behind for reader in readers):
            behind |= set(node.output)
    return behind
