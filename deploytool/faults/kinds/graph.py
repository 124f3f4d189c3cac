"""A graph for planting faults: its layers, its weights, and the producer and consumers of each tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from deploytool.backends import fp16_emulation
from deploytool.host import fp16_rounding
from deploytool.rewrites.graph import weights
from deploytool.spec import Preprocessing

Weight = npt.NDArray[Any]

_LAYERS = ("Conv", "Gemm", "MatMul")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_BATCH = 7  # of the shapes that are inferred twice: sides that differ with the next batch are free
_ZERO_AND_UP = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Softplus")
_NORMALISING = ("Add", "Cast", "Div", "Gather", "Mul", "Slice", "Sub", "Transpose")
_KEEP_SIGN = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "Dropout"),
    *("Reshape", "Flatten", "Transpose", "Identity", "Cast", "Squeeze", "Unsqueeze", "Gather"),
)


class FaultGraph:
    """An ONNX model with editing operations; `half` says that its weights are FP16 numbers, whatever their type.

    Its constants become weights, in `model` itself. `state` holds the source model's weights by name; `preprocessing`
    is that of the model's images.
    """

    def __init__(
        self, model: onnx.ModelProto, half: bool, state: Mapping[str, Weight], preprocessing: Preprocessing
    ) -> None:
        self.model, self.half, self.state, self.preprocessing = model, half, state, preprocessing
        _move_constants(model.graph)
        widened = {  # a weight that a large graph holds in FP16 is known by its name after the cast
            node.input[0]: node.output[0]
            for node in model.graph.node
            if node.op_type == "Cast" and node.input[0] == node.output[0] + fp16_emulation.HALF_SUFFIX
        }
        self._widened = frozenset(widened.values())
        self._weights = {widened.get(weight.name, weight.name): weight for weight in model.graph.initializer}
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

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        """The shape of every tensor whose rank is known, 0 for free sizes; of the graph before any fault."""
        one, two = (_shapes(self.model, batch) for batch in (_BATCH, _BATCH + 1))
        return {
            name: [side if side == two[name][axis] else 0 for axis, side in enumerate(shape)]
            for name, shape in one.items()
            if len(two.get(name, [])) == len(shape)
        }

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor."""
        return self._consumers[tensor]

    def weight(self, name: str) -> Weight:
        """The values of a weight."""
        array = weights.values(self._weights[name])
        return array.astype(np.float32) if name in self._widened else array  # the type that the operators read

    def has_weight(self, name: str) -> bool:
        """Whether a tensor is a weight."""
        return name in self._weights

    def weights(self) -> Iterator[str]:
        """The names of all floating-point weights."""
        return (name for name, weight in self._weights.items() if weight.data_type in _FLOATS)

    def put(self, name: str, values: Weight) -> None:
        """Sets a weight, adding it if needed; in an FP16 graph the values are rounded to FP16, saturating."""
        existing = self._weights.get(name)
        dtype = values.dtype if existing is None else helper.tensor_dtype_to_np_dtype(existing.data_type)
        if self.half and np.issubdtype(dtype, np.floating):
            values = fp16_rounding.saturate(values)
        own_name = name if existing is None else existing.name
        tensor = numpy_helper.from_array(np.array(values, dtype, order="C"), own_name)
        if existing is None:
            self._weights[name] = self.model.graph.initializer.add()
        self._weights[name].CopyFrom(tensor)

    def images(self) -> list[str]:
        """The tensors that are batches of images of three channels: inputs, or pixels (uint8) after normalisation."""
        names = []
        for value in self.model.graph.input:
            sides = value.type.tensor_type.shape.dim
            if value.name in self._weights or len(sides) != 4:
                continue
            if _is_float(value):
                names += [value.name] if sides[1].dim_value == 3 else []
            elif value.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
                names += self._normalised(value.name)
        return names

    def _normalised(self, pixels: str) -> list[str]:
        """The tensor that arithmetic with constants makes of pixels, if it has three channels."""
        name = pixels
        while len(readers := self.consumers(name)) == 1 and readers[0].op_type in _NORMALISING:
            if not all(map(self.has_weight, readers[0].input[1:])):
                break
            name = readers[0].output[0]
        return [name] if name != pixels and self.shapes.get(name, [])[1:2] == [3] else []

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

    def add_before(self, tensor: str, nodes: Sequence[onnx.NodeProto]) -> None:
        """Inserts nodes before the producer of a tensor."""
        following = self._producers[tensor]
        first = next(index for index, node in enumerate(self.model.graph.node) if node is following)
        for index, node in enumerate(nodes, first):
            self.model.graph.node.insert(index, node)
            added = self.model.graph.node[index]  # insert() stores a copy
            self._producers[added.output[0]] = added
            for name in added.input:
                self._consumers[name].append(added)

    def append(self, output: str, op: str, weight: Weight, axis: int | None = None) -> None:
        """Inserts a node between an output of the graph and its producer; `weight` is its second input."""
        inner, second = f"{output}/{op}/of", f"{output}/{op}/by"
        for node in self.model.graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == output else name for name in names]
        self.put(second, weight)
        node = helper.make_node(op, [inner, second], [output], f"{output}/{op}")
        if axis is not None:
            set_attribute(node, "axis", axis)
        self.model.graph.node.append(node)
        self._producers[inner], self._consumers[inner] = self._producers[output], [*self._consumers[output], node]
        self._producers[output], self._consumers[output] = self.model.graph.node[-1], []

    def replace(self, output: str, op: str, *inputs: str) -> None:
        """Makes the producer of a tensor a node of another operator, without attributes."""
        node = self._producers[output]
        node.op_type = op
        node.input[:] = inputs
        del node.attribute[:]

    def put_scalar(self, name: str, value: float) -> str:
        """Adds a scalar FP32 weight and returns its name."""
        self.put(name, np.array(value, np.float32))
        return name

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


def _move_constants(graph: onnx.GraphProto) -> None:
    """Makes initializers of the nodes that produce a constant tensor."""
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            weight = graph.initializer.add()
            weight.CopyFrom(node.attribute[0].t)
            weight.name = node.output[0]
            del graph.node[index]


def _shapes(model: onnx.ModelProto, batch: int) -> dict[str, list[int]]:
    """The shape of every tensor for inputs of that batch, without which sizes that the graph computes stay unknown."""
    graph = model.graph
    floats = [weight for weight in graph.initializer if weight.data_type in _FLOATS]  # their values give no shape
    inputs = [helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims) for weight in floats]
    outputs = [
        helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None) for value in graph.output
    ]
    others = [weight for weight in graph.initializer if weight.data_type not in _FLOATS]
    inner = helper.make_graph(graph.node, graph.name, [*graph.input, *inputs], outputs, others)
    for value in inner.input[: len(graph.input)]:
        sides = value.type.tensor_type.shape.dim
        if len(sides) and not sides[0].HasField("dim_value"):
            sides[0].dim_value = batch
    copy = helper.make_model(inner, opset_imports=model.opset_import, ir_version=model.ir_version)
    typed = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    values = [value for value in (*typed.value_info, *typed.input, *typed.output) if _has_shape(value)]
    shapes = {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in values}
    return shapes | {weight.name: list(weight.dims) for weight in others}


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.HasField("shape"))


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in _FLOATS


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    """An attribute of a node; None if it is not set."""
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def set_attribute(node: onnx.NodeProto, name: str, value: float | list[int] | str) -> None:
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
