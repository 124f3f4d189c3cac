"""Follows tensors of a graph back to where they are computed, and tells their element types."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

# Element types of onnx.TensorProto: onnx itself is not imported here.
FLOAT16, BFLOAT16, INT32, INT64, BOOL = 10, 16, 6, 7, 9

LAYOUT = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile"}
    | {"Transpose", "Unsqueeze"}
)
ONE_DATA_INPUT = LAYOUT - {"Concat"}  # their other inputs are shapes, axes and indices
_SIZES = {"Shape", "Size"}
_INT64_RESULTS = {"ArgMax", "ArgMin", "NonZero"} | _SIZES
_BOOL_RESULTS = {"And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or"}

_CASTS = {"Cast", "Identity"}  # the FP16 conversion adds them, so their results have no counterpart in FP32
_PROJECTIONS = {"Add", "Gemm", "MatMul", "Mul"}

Producers = Mapping[str, "onnx.NodeProto | None"]


@dataclass(frozen=True)
class Trace:
    """The nodes on the way back from a tensor, and the nodes where it ends; `inputs` are the graph inputs reached."""

    passed: tuple[onnx.NodeProto, ...]
    ends: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]

    @property
    def only_end(self) -> onnx.NodeProto | None:
        """The one node where it ends; None if there are several, or if it reaches an input of the graph."""
        return self.ends[0] if len(self.ends) == 1 and not self.inputs else None


def producers(graph: onnx.GraphProto) -> Producers:
    """The node that computes each tensor which depends on the values of the inputs, not on their sizes alone.

    An input itself has None.
    """
    weights = {weight.name for weight in graph.initializer}
    found: dict[str, onnx.NodeProto | None] = {value.name: None for value in graph.input if value.name not in weights}
    for node in graph.node:
        if node.op_type not in _SIZES and any(name in found for name in node.input):
            found |= dict.fromkeys(node.output, node)
    return found


def trace(tensor: str, produced: Producers, through: Set[str]) -> Trace:
    """Follows a tensor back through nodes of these operators, along their data and not along shapes and indices."""
    pending, visited = [tensor], set[str]()
    passed, ends, inputs = list["onnx.NodeProto"](), list["onnx.NodeProto"](), list[str]()
    while pending:
        name = pending.pop()
        if name in visited or name not in produced:  # a tensor that is not produced is a weight
            continue
        visited.add(name)
        node = produced[name]
        if node is None:
            inputs.append(name)
        elif node.op_type in through:
            passed.append(node)
            pending += node.input[:1] if node.op_type in ONE_DATA_INPUT else node.input
        elif node not in ends:
            ends.append(node)
    return Trace(tuple(passed), tuple(ends), tuple(inputs))


def consumers(graph: onnx.GraphProto) -> Mapping[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def settled(tensor: str, produced: Producers, readers: Mapping[str, list[onnx.NodeProto]]) -> str:
    """The last tensor that a tensor is projected by weights and moved to, before other computed tensors join it.

    A probe there is outside of the layers that TensorRT fuses into the one that is compiled wrongly, and has the batch
    first where heads or windows are folded into the batch on the way.
    """
    last = tensor
    while True:
        reading = [node for node in readers.get(tensor, ()) if node.op_type not in _SIZES]
        if len(reading) != 1 or len(reading[0].output) != 1:
            return last
        (node,) = reading
        data = node.input[:1] if node.op_type in ONE_DATA_INPUT else node.input
        if node.op_type not in ONE_DATA_INPUT | _PROJECTIONS or [name for name in data if name in produced] != [tensor]:
            return last
        tensor = node.output[0]
        last = last if node.op_type in _CASTS else tensor


def element_types(graph: onnx.GraphProto) -> Mapping[str, int]:
    """The element type of each tensor that follows from those of the inputs and weights."""
    types = {value.name: int(value.type.tensor_type.elem_type) for value in graph.input}
    types |= {weight.name: int(weight.data_type) for weight in graph.initializer}
    for node in graph.node:
        kind = _result_type(node, types)
        if kind is not None:
            types |= dict.fromkeys(node.output, kind)
        if node.op_type == "TopK":
            types[node.output[1]] = INT64
    return types


def _result_type(node: onnx.NodeProto, types: Mapping[str, int]) -> int | None:
    if node.op_type in _INT64_RESULTS:
        return INT64
    if node.op_type in _BOOL_RESULTS:
        return BOOL
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            return int(attribute.i)
        if node.op_type in {"Constant", "ConstantOfShape"} and attribute.name == "value":
            return int(attribute.t.data_type)
    data = node.input[1:] if node.op_type == "Where" else node.input
    return next((types[name] for name in data if name in types), None)
