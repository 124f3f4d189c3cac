"""A graph for planting faults: its layers, its weights, and the producer and consumers of each tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from deploytool.host import fp16_rounding
from deploytool.spec import Preprocessing

Weight = npt.NDArray[Any]

_LAYERS = ("Conv", "Gemm", "MatMul")
_ZERO_AND_UP = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Softplus")
_KEEP_SIGN = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "Dropout"),
    *("Reshape", "Flatten", "Transpose", "Identity", "Cast", "Squeeze", "Unsqueeze", "Gather"),
)


class FaultGraph:
    """An ONNX model with editing operations; `half` says that its weights are FP16 numbers, whatever their type.

    `state` holds the source model's weights by name; `preprocessing` is that of the model's images.
    """

    def __init__(
        self, model: onnx.ModelProto, half: bool, state: Mapping[str, Weight], preprocessing: Preprocessing
    ) -> None:
        self.model, self.half, self.state, self.preprocessing = model, half, state, preprocessing
        self._weights = {weight.name: weight for weight in model.graph.initializer}
        self._producers = {output: node for node in model.graph.node for output in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._consumers[name].append(node)

    def copy(self) -> FaultGraph:
        """A copy of the graph, for planting a fault."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return FaultGraph(model, self.half, self.state, self.preprocessing)

    def nodes(self, *ops: str) -> list[onnx.NodeProto]:
        """The nodes of these operators, in graph order."""
        return [node for node in self.model.graph.node if node.op_type in ops]

    def layers(self) -> list[onnx.NodeProto]:
        """The convolutions and matrix products that have weights."""
        return [node for node in self.nodes(*_LAYERS) if node.input[1] in self._weights]

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that produces a tensor; None for inputs and weights."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor."""
        return self._consumers[tensor]

    def weight(self, name: str) -> Weight:
        """The values of a weight."""
        return numpy_helper.to_array(self._weights[name])

    def has_weight(self, name: str) -> bool:
        """Whether a tensor is a weight."""
        return name in self._weights

    def weights(self) -> Iterator[str]:
        """The names of all floating-point weights."""
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        return (name for name, weight in self._weights.items() if weight.data_type in floats)

    def put(self, name: str, values: Weight) -> None:
        """Sets a weight, adding it if needed; in an FP16 graph the values are rounded to FP16, saturating."""
        existing = self._weights.get(name)
        dtype = values.dtype if existing is None else helper.tensor_dtype_to_np_dtype(existing.data_type)
        if self.half and np.issubdtype(dtype, np.floating):
            values = fp16_rounding.saturate(values)
        tensor = numpy_helper.from_array(np.ascontiguousarray(values.astype(dtype)), name)
        if existing is None:
            self._weights[name] = self.model.graph.initializer.add()
        self._weights[name].CopyFrom(tensor)

    def images(self) -> list[str]:
        """The floating-point inputs that are batches of images of three channels."""
        names = []
        for value in self.model.graph.input:
            sides = value.type.tensor_type.shape.dim
            if value.name not in self._weights and len(sides) == 4 and sides[1].dim_value == 3 and _is_float(value):
                names.append(value.name)
        return names

    def insert(self, tensor: str, op: str, weight: Weight, axis: int | None = None) -> None:
        """Inserts a node between a tensor and all its consumers; `weight` is its second input."""
        changed, second = f"{tensor}/{op}", f"{tensor}/{op}/by"
        self.put(second, weight)
        for consumer in self.consumers(tensor):
            consumer.input[:] = [changed if name == tensor else name for name in consumer.input]
        node = helper.make_node(op, [tensor, second], [changed], changed)
        if axis is not None:
            set_attribute(node, "axis", axis)
        producer = self.producer(tensor)
        index = list(self.model.graph.node).index(producer) + 1 if producer else 0
        self.model.graph.node.insert(index, node)
        node = self.model.graph.node[index]  # insert() stores a copy
        self._producers[changed], self._consumers[changed], self._consumers[tensor] = (
            node,
            self._consumers[tensor],
            [node],
        )

    def never_negative(self, tensor: str) -> bool:
        """Whether the producer of a tensor cannot make negative values; False where this is unknown."""
        node = self.producer(tensor)
        if node is None:
            return self.has_weight(tensor) and bool((self.weight(tensor) >= 0).all())
        if node.op_type in _ZERO_AND_UP:
            return True
        if node.op_type == "Clip":
            return self.has_weight(node.input[1]) and float(self.weight(node.input[1])) >= 0
        if node.op_type in ("Add", "Mul", "Concat"):
            return all(self.never_negative(name) for name in node.input)
        return node.op_type in _KEEP_SIGN and self.never_negative(node.input[0])


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    """An attribute of a node; None if it is not set."""
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def set_attribute(node: onnx.NodeProto, name: str, value: int | list[int]) -> None:
    """Sets an attribute of a node, replacing its value."""
    others = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*others, helper.make_attribute(name, value)])


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weight that indexes its output channels."""
    if node.op_type == "Conv":
        return 0
    transposed = attribute(node, "transB")
    return 0 if node.op_type == "Gemm" and transposed is not None and transposed.i else -1
