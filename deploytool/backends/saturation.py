"""Finds tensors whose overflow is harmless, because what reads them saturates: tanh of infinity is 1, as of 65504.

Such a value is judged by what comes out: the answers with the overflow are compared like all others. The cube in a GELU
by tanh, a product before a ReLU6 or a sigmoid and a scaled score before a softmax are of this kind. A sum of products
is not: a kernel that adds in FP16 has infinities of both signs in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto

from deploytool.host import fp16_rounding
from deploytool.rewrites.graph import weights

_SATURATED = {"Erf": 8.0, "HardSigmoid": 64.0, "Sigmoid": 64.0, "Sign": 0.0, "Softmax": 1024.0, "Tanh": 32.0}
# by operator: from this magnitude on its result no longer depends on its argument in FP16
_COMPARING = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_KEEPING = (
    *("Abs", "Add", "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "LeakyRelu", "Max", "MaxPool", "Min"),
    *("Neg", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze"),
)  # operators that infinity passes as a number beyond 65504 does
_SCALING = ("Div", "Mul", "Pow")  # the same, by a constant, and products with what a tensor was computed from
_SINGLE = ("Abs", "Add", "Div", "Exp", "Mul", "Neg", "Pow", "Sub")  # operators whose overflow may be harmless
_DEPTH = 8  # nodes to follow to what saturates, and from a product to its factors


def absorbed(model: onnx.ModelProto) -> set[str]:
    """The results of arithmetic of single values that reach nothing but saturating operators, and no output."""
    reads = _Reads(model.graph)
    single = (node for node in model.graph.node if node.op_type in _SINGLE)
    return {name for node in single for name in node.output if reads.is_absorbed(name)}


class _Reads:
    """What produces and what reads each tensor of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._constants = {weight.name: weight for weight in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._inner = {name for node in graph.node for name in _inner_reads(node)}

    def is_absorbed(self, tensor: str, least: float = fp16_rounding.LARGEST, depth: int = _DEPTH) -> bool:
        """Whether every path from a tensor meets a saturating operator within that many nodes.

        `least` is the smallest magnitude that the tensor has where the first one is beyond 65504.
        """
        readers = self._readers.get(tensor, [])
        if not depth or not readers or tensor in self._outputs or tensor in self._inner:
            return False
        return all(self._absorbs(node, tensor, least, depth) for node in readers)

    def _absorbs(self, node: NodeProto, tensor: str, least: float, depth: int) -> bool:
        others = [name for name in node.input if name != tensor]
        if node.op_type in _SATURATED:
            return least >= _SATURATED[node.op_type]
        if node.op_type in _COMPARING:
            return all(name not in self._constants or least >= self._largest(name) for name in others)
        if node.op_type == "Clip" and len(others) == 2 and all(others) and max(map(self._largest, others)) <= least:
            return True
        if node.op_type in _SCALING:
            least = self._scaled(node, tensor, others, least)
        elif node.op_type not in _KEEPING:
            return False
        return least > 0 and all(
            self.is_absorbed(name, least, depth - (node.op_type != "Cast")) for name in node.output if name
        )

    def _scaled(self, node: NodeProto, tensor: str, others: Sequence[str], least: float) -> float:
        """The least magnitude of a product; 0 if the other factor is neither a constant nor an origin of the tensor."""
        if node.op_type == "Mul":
            powers = not others or self._precedes(others[0], tensor, _DEPTH)
            return least if powers else least * self._smallest(others[0])
        if not others or node.input[0] != tensor:
            return 0.0
        if node.op_type == "Div":
            return least / self._largest(others[0])
        return least if self._smallest(others[0]) >= 1 else 0.0

    def _largest(self, constant: str) -> float:
        """The largest absolute value of a constant; infinite if it is unknown."""
        return max(self._sizes(constant), default=np.inf)

    def _smallest(self, constant: str) -> float:
        """The smallest absolute value of a constant; 0 if it is unknown."""
        return min(self._sizes(constant), default=0.0)

    def _sizes(self, constant: str) -> list[float]:
        values = self._constants.get(constant)
        sizes: list[float] = [] if values is None else np.abs(weights.values(values)).ravel().tolist()
        return sizes

    def _precedes(self, earlier: str, tensor: str, depth: int) -> bool:
        if earlier == tensor:
            return True
        node = self._makers.get(tensor) if depth else None
        return node is not None and any(self._precedes(earlier, name, depth - 1) for name in node.input)


def _inner_reads(node: NodeProto) -> list[str]:
    """What the subgraphs of a node read: infinity there is not followed."""
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    inner = [reader for graph in graphs for reader in graph.node]
    names = [value.name for graph in graphs for value in graph.output]
    return [*names, *(name for reader in inner for name in (*reader.input, *_inner_reads(reader)))]
