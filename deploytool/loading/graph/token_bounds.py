"""Finds the bounds of integer inputs that index tables: token ids must be rows of the table that they look up."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, NodeProto, TensorProto

from deploytool.loading.graph import structure
from deploytool.rewrites.graph import weights

_SAME_VALUES = ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice", "Expand")
_SAME_TABLE = ("Identity", "Cast", "DequantizeLinear")  # operators that leave the number of rows unchanged
_INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8)
_MAX_STEPS = 32
_MAX_BYTES = 1 << 20  # of a constant whose numbers are read


def find(graph: GraphProto) -> dict[str, int]:
    """The number of rows of the smallest table that an input indexes, by the input's name.

    Comparing an input with a list of numbers is indexing too: it makes a one-hot vector.
    """
    tables = _Tables(graph)
    names = {value.name for value in structure.inputs(graph)}
    bounds: dict[str, int] = {}
    for node in structure.nodes(graph, "the graph"):
        for rows, indices in tables.rows(node):
            source = _source(tables.producers, indices, _SAME_VALUES)
            if rows and source in names:
                bounds[source] = min(rows, bounds.get(source, rows))
    return bounds


class _Tables:
    """The constants of a graph that inputs can index."""

    def __init__(self, graph: GraphProto) -> None:
        nodes = structure.nodes(graph, "the graph")
        self.producers = {name: node for node in nodes for name in node.output if name}
        self._constants: dict[str, TensorProto] = {weight.name: weight for weight in graph.initializer}
        for name, node in self.producers.items():
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self._constants[name] = node.attribute[0].t

    def rows(self, node: NodeProto) -> list[tuple[int, str]]:
        """What a node indexes, each as the number of rows and the tensor that holds the indices."""
        if len(node.input) < 2:
            return []
        first, second = node.input[:2]
        if node.op_type in ("Gather", "GatherND"):
            table = self._constant(first)
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            shape = () if table is None else tuple(table.dims)
            return [(shape[axis], second)] if -len(shape) <= axis < len(shape) else []
        if node.op_type == "OneHot":
            return [(max(self._numbers(second), default=0), first)]
        if node.op_type == "Equal":
            pairs = ((self._numbers(constant), indices) for constant, indices in ((first, second), (second, first)))
            return [(max(numbers) + 1, indices) for numbers, indices in pairs if len(numbers) > 1]
        return []

    def _constant(self, name: str) -> TensorProto | None:
        return self._constants.get(_source(self.producers, name, _SAME_TABLE))

    def _numbers(self, name: str) -> list[int]:
        """The integers of a constant; empty for other tensors and for large ones, which may be in a side file."""
        tensor = self._constant(name)
        if tensor is None or tensor.data_type not in _INTEGERS or weights.tensor_bytes(tensor) > _MAX_BYTES:
            return []
        try:
            return [int(number) for number in weights.values(tensor).reshape(-1)]
        except (ValueError, TypeError, KeyError):
            return []


def _source(producers: Mapping[str, NodeProto], name: str, through: tuple[str, ...]) -> str:
    """The tensor that a tensor is made from by operators of `through` alone."""
    for _ in range(_MAX_STEPS):
        node = producers.get(name)
        if node is None or node.op_type not in through or not node.input:
            break
        name = node.input[0]
    return name
