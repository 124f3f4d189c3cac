"""Numbers that are huge on purpose: masks of minus infinity, of -1e9, of the smallest number there is.

A softmax makes zero of them, a maximum never takes them, and FP16 has infinity too: they are no overflow. To find what
overflows beside them, they are made small enough for FP16 and still far from all else, for that measurement alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

FROM = 65504.0  # whatever FP16 cannot tell from its end
SMALL = 8192.0  # exp(-8192) is zero too, and seven masks on top of one another still fit into FP16
_CHOOSING = ("Where", "Add", "Sub", "Pad", "ScatterND", "ScatterElements")  # operators that apply a mask
_PASSING = (
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Neg", "Reshape", "Slice", "Squeeze"),
    *("Tile", "Transpose", "Trilu", "Unsqueeze"),
)  # operators that only move numbers
_COUNTING = (*_PASSING, "Constant", "ConstantOfShape", "Range", "Shape", "Add", "Sub", "Mul", "Where")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_TELLING = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor", "IsInf")


def shrink(graph: onnx.ModelProto, to: float = SMALL) -> bool:
    """Makes the numbers of the masks of an FP32 graph as small as that; whether it has any."""
    wiring = _Wiring(graph.graph)
    constants = [each for each in _constants(graph) if each[1].data_type == TensorProto.FLOAT and _huge(each[1])]
    found = [value for name, value in constants if wiring.is_mask(name)]
    for value in found:
        numbers = numpy_helper.to_array(value)
        small = np.where(np.abs(numbers) >= FROM, np.copysign(np.float32(to), numbers), numbers)
        value.CopyFrom(numpy_helper.from_array(small.astype(np.float32), value.name))
    return bool(found)


def _huge(value: TensorProto) -> bool:
    return bool((np.abs(numpy_helper.to_array(value)) >= FROM).any())


def _constants(graph: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every constant by the name of the tensor that it is."""
    for node in graph.graph.node:
        for attribute in node.attribute:
            if node.op_type in ("Constant", "ConstantOfShape") and attribute.HasField("t"):
                yield node.output[0], attribute.t
    for weight in graph.graph.initializer:
        yield weight.name, weight


class _Wiring:
    """Who makes and who reads the tensors of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._given = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._weights = {weight.name for weight in graph.initializer}

    def is_mask(self, name: str) -> bool:
        """Whether a constant is only ever chosen or added, or multiplied with what is true or false."""
        found = self._readers.get(name, [])
        return bool(found) and all(self._applies(node, name) for node in found)

    def _applies(self, node: onnx.NodeProto, name: str) -> bool:
        if node.op_type in _PASSING:
            return self.is_mask(node.output[0])
        if node.op_type == "Mul":
            return all(self._is_truth(each) for each in node.input if each != name)
        return node.op_type in _CHOOSING

    def _is_truth(self, name: str) -> bool:
        """Whether a tensor is made of comparisons, booleans, integers and constants alone."""
        if name in self._weights:
            return True
        if name in self._given:
            return self._given[name] not in _FLOATS
        node = self._makers[name]
        if node.op_type in _TELLING:
            return True
        return node.op_type in _COUNTING and all(self._is_truth(each) for each in node.input if each)
