"""Finds the arithmetic that normalises pixels: it costs nothing in FP32, and FP16 would round each of its steps."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, TensorProto, ValueInfoProto

from deploytool.rewrites.graph.editable import EditableGraph

_MOVING = ("Cast", "Gather", "Identity", "Slice", "Transpose")
_ARITHMETIC = ("Add", "Div", "Mul", "Sub")


def find(model: ModelProto, among: Sequence[str]) -> frozenset[str]:
    """The nodes `among` from an image of uint8 to the first that is no arithmetic with constants."""
    graph, found = EditableGraph(model), set[str]()
    tensors = [value.name for value in model.graph.input if _is_image(value)]
    for tensor in tensors:
        for node in graph.consumers(tensor):
            others = [name for name in node.input if name and name != tensor]
            if node.op_type in (*_MOVING, *_ARITHMETIC) and all(graph.constant(name) is not None for name in others):
                found.add(node.name)
                tensors += node.output
    return frozenset(found.intersection(among))


def _is_image(value: ValueInfoProto) -> bool:
    """Whether an input is of uint8 with four axes, one of which is that of one or three channels."""
    typed = value.type.tensor_type
    sides = [side.dim_value for side in typed.shape.dim]
    return typed.elem_type == TensorProto.UINT8 and len(sides) == 4 and bool({sides[1], sides[3]} & {1, 3})
