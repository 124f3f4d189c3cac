"""Finds attention masks in a graph (minus infinity, -1e9, the lowest float) and makes their values small.

A mask is large on purpose: a softmax turns it into zero, a maximum never selects it, and FP16 has infinity too, so it
is not an overflow. To measure the range of the other tensors, masks get values that fit into FP16 and still dominate
the sum that they are added to. The changed graph serves that measurement only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from deploytool.host import fp16_rounding
from deploytool.rewrites.graph import weights

MIN_MASK = fp16_rounding.LARGEST  # the largest finite FP16 value: constants from here on can be masks
SHRUNK_MASK = 8192.0  # exp(-8192) is zero too, and the sum of seven masks still fits into FP16
APPLYING = ("Where", "Add", "Sub", "Pad", "ScatterND", "ScatterElements", "Max", "Min")  # operators that apply a mask
MOVING = (
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Neg", "Reshape", "Slice", "Squeeze"),
    *("Tile", "Transpose", "Trilu", "Unsqueeze"),
)  # operators that move values without computing new ones
_INTEGER = (*MOVING, "Constant", "ConstantOfShape", "Range", "Shape", "Add", "Sub", "Mul", "Where")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_COMPARING = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor", "IsInf")


def shrink(graph: onnx.ModelProto, to: float = SHRUNK_MASK) -> bool:
    """Replaces the mask values of an FP32 graph, in place, by `to` with their sign; returns whether it has any."""
    masks = [value for _, value in find(graph)]
    for mask in masks:
        values = weights.values(mask)
        small = np.where(np.abs(values) >= MIN_MASK, np.copysign(np.float32(to), values), values)
        mask.CopyFrom(numpy_helper.from_array(small.astype(np.float32), mask.name))
    return bool(masks)


def find(graph: onnx.ModelProto) -> list[tuple[str, TensorProto]]:
    """The constants of an FP32 graph that hold mask values, with the names of their tensors."""
    uses = _TensorUses(graph.graph)
    large = [(name, value) for name, value in _constants(graph) if _is_large(value)]
    return [(name, value) for name, value in large if uses.is_mask(name)]


def _is_large(value: TensorProto) -> bool:
    if value.data_type != TensorProto.FLOAT:
        return False
    return bool((np.abs(weights.values(value)) >= MIN_MASK).any())


def _constants(graph: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every constant with the name of its tensor."""
    for node in graph.graph.node:
        for attribute in node.attribute:
            if node.op_type in ("Constant", "ConstantOfShape") and attribute.HasField("t"):
                yield node.output[0], attribute.t
    for weight in graph.graph.initializer:
        yield weight.name, weight


class _TensorUses:
    """The producer and the consumers of every tensor in a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._producers = {name: node for node in graph.node for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._input_types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._weights = {weight.name for weight in graph.initializer}

    def is_mask(self, name: str) -> bool:
        """Whether a constant is only selected, added, or multiplied by a boolean tensor."""
        consumers = self._consumers.get(name, [])
        return bool(consumers) and all(self._applies_mask(node, name) for node in consumers)

    def _applies_mask(self, node: onnx.NodeProto, name: str) -> bool:
        if node.op_type in MOVING:
            return self.is_mask(node.output[0])
        if node.op_type == "Mul":
            return all(self._is_boolean(factor) for factor in node.input if factor != name)
        return node.op_type in APPLYING

    def _is_boolean(self, name: str) -> bool:
        """Whether a tensor is computed from comparisons, booleans, integers and constants only."""
        if name in self._weights:
            return True
        if name in self._input_types:
            return self._input_types[name] not in _FLOATS
        node = self._producers[name]
        if node.op_type in _COMPARING:
            return True
        return node.op_type in _INTEGER and all(self._is_boolean(operand) for operand in node.input if operand)
