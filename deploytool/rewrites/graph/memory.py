"""How much memory a run of a graph may take on a CPU, worked out from its shapes: the same for the same graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx.shape_inference import InferenceError

from deploytool.rewrites.graph import shapes

_BASE_MIB = 160  # for the session itself, the arena's first regions, and buffers of libraries

# Bytes for each byte that a tensor has as FP32, or in its own type if that is wider. The arena grows by powers of two
# and keeps what it once had, a graph in FP16 is computed in FP32 beside it, and layouts are changed on copies.
_OF_TENSOR, _OF_WEIGHT, _OF_ANSWER = 2, 6, 20
_WIDTH = 4  # bytes of an FP32 number

_CONVOLUTIONS = ("Conv", "ConvInteger", "DeformConv")
_RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}  # gates
_INSIDE = ("Attention", "Loop", "Scan", "If", "SequenceMap")  # what they take does not follow from their ends
_OWN = ("", "ai.onnx")  # domains

Sides = tuple[int, ...]


def needed(model: ModelProto, sizes: Mapping[str, int], cases: int) -> int | None:
    """The MiB that a process may take to open the graph and run it for that many cases, beyond an empty session.

    `sizes` are those of the free sides of its inputs, the batch with them. None where a shape does not follow from
    the sizes alone.
    """
    graph = model.graph
    if any(node.op_type in _INSIDE or node.domain not in _OWN for node in graph.node):
        return None
    try:
        known = shapes.infer(shapes.fixed(shapes.without_values(model), sizes))
    except InferenceError:  # onnx does not understand what ONNX Runtime may well run
        return None
    found = {name: whole for name, value in known.items() if (whole := _whole(value)) is not None}
    found |= {weight.name: tuple(weight.dims) for weight in graph.initializer}
    made = {name for node in graph.node for name in node.output if name}
    ends = {value.name for value in (*graph.input, *graph.output)}
    if not (made | ends) <= found.keys():
        return None
    tensors = sum(_bytes(found[name], known.get(name)) for name in made | ends)
    scratch = max((sum(_scratch(node, found)) for node in graph.node), default=0) * _WIDTH
    batch = max(_first(found[value.name]) for value in graph.output)
    answers = sum(_bytes(found[value.name], known.get(value.name)) for value in graph.output) * max(1, cases / batch)
    weights = sum(_of_weight(weight) for weight in _weights(model))
    total = _OF_TENSOR * (tensors + scratch) + _OF_WEIGHT * weights + _OF_ANSWER * answers
    return _BASE_MIB + math.ceil(total / (1 << 20))


def _whole(value: ValueInfoProto) -> Sides | None:
    """The shape of a tensor; None if a side of it, or their number, is not known."""
    sides = shapes.sides(value)
    if not value.type.tensor_type.HasField("shape") or any(side is None for side in sides):
        return None
    return tuple(side for side in sides if side is not None)


def _first(sides: Sides) -> int:
    return max(sides[0], 1) if sides else 1


def _bytes(sides: Sides, value: ValueInfoProto | None) -> int:
    """What a tensor takes in FP32, or in its own type if that is wider."""
    kind = value.type.tensor_type.elem_type if value is not None else TensorProto.FLOAT
    return math.prod(sides) * _width(kind)


def _weights(model: ModelProto) -> Iterator[TensorProto]:
    """The weights, those with them that are in attributes."""
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (each.t for each in node.attribute if each.type == AttributeProto.TENSOR)


def _of_weight(weight: TensorProto) -> int:
    sides: Sides = tuple(weight.dims)
    return math.prod(sides) * _width(weight.data_type)


def _width(kind: int) -> int:
    return max(_WIDTH, int(helper.tensor_dtype_to_np_dtype(kind).itemsize))


def _scratch(node: NodeProto, found: Mapping[str, Sides]) -> Iterator[int]:
    """The numbers that an operator keeps for itself while it runs: copies of its ends, and what it lays out anew."""
    given, made = ([found[name] for name in names if name in found] for names in (node.input, node.output))
    yield sum(math.prod(sides) for sides in (*given, *made))
    if node.op_type in _CONVOLUTIONS and made:
        yield math.prod(given[1][1:]) * math.prod(made[0][2:])  # a column for every place of the answer
    elif node.op_type == "ConvTranspose":
        yield math.prod(given[1][1:]) * math.prod(given[0][2:])  # and here for every place of the input
    elif node.op_type in _RECURRENT and len(given) > 2:
        steps, hidden, ways = math.prod(given[0][:2]), given[2][-1], given[2][0]
        yield 2 * steps * hidden * ways * _RECURRENT[node.op_type]
