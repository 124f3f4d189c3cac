"""A graph that faults can be planted in: its layers, its weights, and who makes and reads each tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from deploytool import fp16_rounding
from deploytool.spec import Preprocessing

Weight = npt.NDArray[Any]

_LAYERS = ("Conv", "Gemm", "MatMul")
_ZERO_AND_UP = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Softplus")
_KEEP_SIGN = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "Dropout"),
    *("Reshape", "Flatten", "Transpose", "Identity", "Cast", "Squeeze", "Unsqueeze", "Gather"),
)


class FaultGraph:
    """An ONNX model, opened for changes; `half` says that its weights are FP16 numbers, whatever their type.

    `state` are the source model's own weights by name; `preprocessing` is what its images went through.
    """

    def __init__(
        self, model: onnx.ModelProto, half: bool, state: Mapping[str, Weight], preprocessing: Preprocessing
    ) -> None:
        self.model, self.half, self.state, self.preprocessing = model, half, state, preprocessing
        self._weights = {weight.name: weight for weight in model.graph.initializer}
        self._makers = {output: node for node in model.graph.node for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)

    def copy(self) -> FaultGraph:
        """The same graph once more, to be spoiled."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return FaultGraph(model, self.half, self.state, self.preprocessing)

    def nodes(self, *ops: str) -> list[onnx.NodeProto]:
        """The nodes of these kinds, in their order."""
        return [node for node in self.model.graph.node if node.op_type in ops]

    def layers(self) -> list[onnx.NodeProto]:
        """The convolutions and matrix products that have weights."""
        return [node for node in self.nodes(*_LAYERS) if node.input[1] in self._weights]

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; none for inputs and weights."""
        return self._makers.get(tensor)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor."""
        return self._readers[tensor]

    def weight(self, name: str) -> Weight:
        """The values of a weight."""
        return numpy_helper.to_array(self._weights[name])

    def has_weight(self, name: str) -> bool:
        """Whether a tensor is a weight, and not computed."""
        return name in self._weights

    def weights(self) -> Iterator[str]:
        """The names of all weights that are floating-point numbers."""
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        return (name for name, weight in self._weights.items() if weight.data_type in floats)

    def put(self, name: str, values: Weight) -> None:
        """Changes a weight, to numbers that FP16 has where the graph is one of FP16."""
        held = self._weights.get(name)
        dtype = values.dtype if held is None else helper.tensor_dtype_to_np_dtype(held.data_type)
        if self.half and np.issubdtype(dtype, np.floating):
            values = fp16_rounding.saturate(values)
        made = numpy_helper.from_array(np.ascontiguousarray(values.astype(dtype)), name)
        if held is None:
            self._weights[name] = self.model.graph.initializer.add()
        self._weights[name].CopyFrom(made)

    def images(self) -> list[str]:
        """The inputs that are batches of images of three channels, in numbers that can be normalised."""
        found = []
        for each in self.model.graph.input:
            sides = each.type.tensor_type.shape.dim
            if each.name not in self._weights and len(sides) == 4 and sides[1].dim_value == 3 and _is_float(each):
                found.append(each.name)
        return found

    def insert(self, tensor: str, op: str, weight: Weight, axis: int | None = None) -> None:
        """Puts a node between a tensor and all its readers; `weight` is its second input."""
        changed, second = f"{tensor}/{op}", f"{tensor}/{op}/by"
        self.put(second, weight)
        for reader in self.readers(tensor):
            reader.input[:] = [changed if name == tensor else name for name in reader.input]
        node = helper.make_node(op, [tensor, second], [changed], changed)
        if axis is not None:
            set_attribute(node, "axis", axis)
        maker = self.maker(tensor)
        place = list(self.model.graph.node).index(maker) + 1 if maker else 0
        self.model.graph.node.insert(place, node)
        node = self.model.graph.node[place]  # what was inserted is a copy
        self._makers[changed], self._readers[changed], self._readers[tensor] = node, self._readers[tensor], [node]

    def never_negative(self, tensor: str) -> bool:
        """Whether what makes a tensor can make no number below zero; False where nobody can say."""
        node = self.maker(tensor)
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
    """An attribute of a node, None if it has the default."""
    return next((each for each in node.attribute if each.name == name), None)


def set_attribute(node: onnx.NodeProto, name: str, value: int | list[int]) -> None:
    """Gives an attribute a value, whether it had one or not."""
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weight that its outputs are counted on."""
    if node.op_type == "Conv":
        return 0
    turned = attribute(node, "transB")
    return 0 if node.op_type == "Gemm" and turned is not None and turned.i else -1
