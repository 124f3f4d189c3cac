"""Counts multiply-accumulates (MACs), and the share of them in INT8."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from deploytool.precision import conversion
from deploytool.rewrites.graph.editable import EditableGraph, attributes
from deploytool.rewrites.graph.shapes import Shape

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_RECURRENT = ("LSTM", "GRU", "RNN")  # multiply too, and never in INT8


@dataclass(frozen=True)
class Int8Share:
    """The MACs of one inference that run in INT8, that the placement rules allow in INT8, and of all heavy nodes."""

    int8: int
    allowed: int
    total: int

    @property
    def of_allowed(self) -> float:
        """The share in INT8 of what the rules allow; 1 if they allow nothing."""
        return self.int8 / self.allowed if self.allowed else 1.0

    @property
    def of_all(self) -> float:
        """The share in INT8 of all MACs; 0 if there are none."""
        return self.int8 / self.total if self.total else 0.0


def share(counts: Mapping[str, int], int8: Collection[str], allowed: Collection[str]) -> Int8Share:
    """The share of MACs, from `count` and the names of the nodes in INT8 and of those that the rules allow."""
    int8_macs = sum(macs for name, macs in counts.items() if name in int8)
    return Int8Share(int8_macs, sum(counts[name] for name in allowed), sum(counts.values()))


def count(graph: onnx.ModelProto) -> dict[str, int]:
    """The MACs of every heavy node and recurrent layer of an FP32 graph by name, in graph order.

    A dynamic dimension, such as the batch, counts as 1; so does a node whose shapes onnx cannot infer.
    """
    editable = EditableGraph(conversion.with_names(graph))
    return {node.name: _macs(editable, node) for node in editable.nodes if node.op_type in (*HEAVY, *_RECURRENT)}


def _macs(graph: EditableGraph, node: NodeProto) -> int:
    data, second, result = (_shape(graph, name) for name in (node.input[0], node.input[1], node.output[0]))
    if not data or not second or not result:
        return 1
    if node.op_type == "Conv":
        return math.prod(result) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(second[1:])
    if node.op_type in _RECURRENT:  # of weights (directions, gates, from) for inputs and for states, in each step
        return math.prod(data[:2]) * (math.prod(second) + math.prod(_shape(graph, node.input[2])))
    depth = data[-2] if attributes(node).get("transA", 0) else data[-1]
    return math.prod(result) * depth


def _shape(graph: EditableGraph, name: str) -> tuple[int, ...]:
    constant = graph.constant(name)
    shape: Shape | None = graph.shape(name) if constant is None else constant.shape
    return tuple(size or 1 for size in shape or ())


def in_graph(quantized: onnx.ModelProto) -> frozenset[str]:
    """The names of the heavy nodes of a QDQ graph whose first two inputs are both dequantized INT8 values."""
    graph = EditableGraph(quantized)
    return frozenset(
        node.name
        for node in graph.nodes
        if node.op_type in HEAVY and all(_is_dequantized(graph, name) for name in node.input[:2])
    )


def _is_dequantized(graph: EditableGraph, name: str) -> bool:
    producer = graph.producer(name)
    while producer is not None and producer.op_type == "Cast":
        producer = graph.producer(producer.input[0])
    return producer is not None and producer.op_type == "DequantizeLinear"
