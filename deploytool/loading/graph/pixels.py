"""Makes a given graph take pixels (uint8) as its images, and normalise them as `data.images.normalise` does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploytool.loading.graph import adapter
from deploytool.spec import Model, Preprocessing, Tensor

Step = tuple[str, dict[str, object], tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], ...]]


def take(model: ModelProto, definition: Model) -> None:
    """Changes a graph with the inputs of the model itself in place: its images become pixels, as in `definition`.

    The cast of the pixels comes first. A graph of a definition without `normalisation` stays as it is.
    """
    how, graph = definition.normalisation, model.graph
    if how is None:
        return
    declared, values = {tensor.name: tensor for tensor in definition.inputs}, {each.name: each for each in graph.input}
    nodes: list[NodeProto] = []
    for tensor in definition.normalised:
        inner = adapter.unused(graph, f"{tensor.name}_normalised")
        adapter.rename(graph, tensor.name, inner)
        nodes += _nodes(graph, tensor.name, inner, _steps(tensor, how, definition.preprocessing.layout))
        value = values[tensor.name]
        value.type.tensor_type.elem_type = TensorProto.UINT8
        adapter.set_dimensions(value, declared[tensor.name].shape)
    adapter.insert(graph, 0, nodes)


def _steps(tensor: Tensor, how: Preprocessing, layout: str) -> list[Step]:
    """The operators from pixels to an image input, each with attributes and further inputs; those without effect not.

    Their order is that of `data.images.normalise`.
    """
    steps: list[Step] = [("Cast", {"to": TensorProto.FLOAT}, ())]
    if layout != how.layout:
        steps.append(("Transpose", {"perm": [layout.index(axis) for axis in how.layout]}, ()))
    axis = how.layout.index("C")
    if how.channels == "BGR" and tensor.channels(how.layout) == 3:
        steps.append(("Gather", {"axis": axis}, (np.array([2, 1, 0], np.int64),)))
    for operator, numbers, neutral in (("Mul", (how.scale,), 1.0), ("Sub", how.mean, 0.0), ("Div", how.std, 1.0)):
        if any(number != neutral for number in numbers):
            sides = [len(numbers) if each == axis else 1 for each in range(4)]
            steps.append((operator, {}, (np.array(numbers, np.float32).reshape(sides),)))
    if tensor.dtype != "float32":
        steps.append(("Cast", {"to": helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))}, ()))
    return steps


def _nodes(graph: GraphProto, source: str, target: str, steps: Sequence[Step]) -> list[NodeProto]:
    """The nodes of these steps from one tensor to another; their further inputs become initialisers."""
    nodes: list[NodeProto] = []
    for number, (operator, attributes, arrays) in enumerate(steps, 1):
        node = f"{target}_{number}_{operator.lower()}"
        made = target if number == len(steps) else adapter.unused(graph, node)
        constants = [adapter.unused(graph, f"{node}_by") for _ in arrays]
        pairs = zip(constants, arrays, strict=True)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in pairs)
        nodes.append(helper.make_node(operator, [source, *constants], [made], node))
        for name, value in attributes.items():
            nodes[-1].attribute.append(helper.make_attribute(name, value))
        source = made
    return nodes
