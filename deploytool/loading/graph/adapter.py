"""Gives a given graph the inputs and outputs of its model: their names, the batch first, and sizes as stated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from deploytool.loading.graph import structure
from deploytool.loading.graph.batch_axis import Dimensions
from deploytool.spec import GivenTensor, Model, Tensor

_AXES_AS_INPUT = 13  # opset from which Squeeze and Unsqueeze take their axes as an input
_MIN_IR = 4  # from which an initialiser need not be an input


def adapt(model: ModelProto, definition: Model, outputs: Sequence[str]) -> None:
    """Changes a graph in place: its inputs are those of `definition`, and all its outputs have the names `outputs`.

    A tensor with its batch elsewhere, or without one, passes through a node that moves, removes or adds the axis. A
    graph that has these inputs and outputs already stays as it is, byte for byte.
    """
    assert definition.given is not None
    graph, version = model.graph, definition.given.opset
    _drop_default_values(model)
    values = {value.name: value for value in graph.input}
    front: list[NodeProto] = []
    for place, tensor in zip(definition.given.inputs, definition.inputs, strict=True):
        front += _adapt_input(graph, values[place.name], place, tensor, version)
    insert(graph, 0, front)
    back: list[NodeProto] = []
    for index, (place, name) in enumerate(zip(definition.given.outputs, outputs, strict=True)):
        back += _adapt_output(graph, index, place, name, version)
    insert(graph, len(graph.node), back)


def insert(graph: GraphProto, index: int, added: Sequence[NodeProto]) -> None:
    """Inserts nodes before the node at an index."""
    if added:
        nodes = [*graph.node[:index], *added, *graph.node[index:]]
        del graph.node[:]
        graph.node.extend(nodes)


def set_dimensions(value: ValueInfoProto, shape: Dimensions) -> bool:
    """Sets the shape of a tensor, with words for dynamic dimensions; returns whether it had another one."""
    before = value.type.tensor_type.shape.SerializeToString(deterministic=True)
    element = value.type.tensor_type.elem_type
    changed = helper.make_tensor_value_info(value.name, element, shape)
    if changed.type.tensor_type.shape.SerializeToString(deterministic=True) == before:
        return False
    value.type.tensor_type.shape.CopyFrom(changed.type.tensor_type.shape)
    return True


def _drop_default_values(model: ModelProto) -> None:
    """Makes initialisers that are inputs as well constants: nothing passes other values for them."""
    inputs = structure.inputs(model.graph)
    if len(inputs) < len(model.graph.input):
        kept = [ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
        del model.graph.input[:]
        model.graph.input.extend(kept)
    if model.graph.initializer:
        model.ir_version = max(model.ir_version, _MIN_IR)


def _adapt_input(
    graph: GraphProto, value: ValueInfoProto, place: GivenTensor, tensor: Tensor, version: int
) -> list[NodeProto]:
    """The nodes that make the tensor of the file from the input of the model; none if they are the same."""
    nodes: list[NodeProto] = []
    if place.name != tensor.name:
        _release(graph, tensor.name)
    if place.batch_axis == 0:
        rename(graph, place.name, tensor.name)
    else:
        inner = unused(graph, f"{place.name}_given")
        rename(graph, place.name, inner)
        nodes = _move(tensor.name, inner, place, len(tensor.shape), version, back=False)
    value.name = tensor.name
    if set_dimensions(value, tensor.shape):
        del graph.value_info[:]  # they may contradict the sizes
    return nodes


def _adapt_output(graph: GraphProto, index: int, place: GivenTensor, name: str, version: int) -> list[NodeProto]:
    """The nodes that make an output of the model from that of the file; none if they are the same."""
    value = graph.output[index]
    made = value.name  # the tensor that the output is, which an input or output before it may have renamed
    is_used = made in {other.name for other in (*graph.input, *graph.output[:index])}
    if place.batch_axis == 0 and made == name and not is_used:
        return []
    nodes: list[NodeProto] = []
    if made != name:
        _release(graph, name)
    if place.batch_axis == 0 and is_used:
        nodes = [helper.make_node("Identity", [made], [name], f"{name}_identity")]
    elif place.batch_axis == 0:
        rename(graph, made, name)
    else:
        inner = made
        if made == name:
            inner = unused(graph, f"{name}_given")
            rename(graph, name, inner)
        rank = len(value.type.tensor_type.shape.dim)
        nodes = _move(inner, name, place, rank, version, back=True)
    value.name = name
    value.type.tensor_type.ClearField("shape")
    return nodes


def _move(source: str, target: str, place: GivenTensor, rank: int, version: int, *, back: bool) -> list[NodeProto]:
    """The nodes between a tensor of the model and one of the file; `back` if the file's is the source."""
    if place.batch_axis is None:
        operator = "Unsqueeze" if back else "Squeeze"
        name = f"{target}_{operator.lower()}"
        if version < _AXES_AS_INPUT:
            return [helper.make_node(operator, [source], [target], name, axes=[0])]
        axes = helper.make_tensor(f"{name}_axes", TensorProto.INT64, [1], [0])
        constant = helper.make_node("Constant", [], [f"{name}_axes"], f"{name}_constant", value=axes)
        return [constant, helper.make_node(operator, [source, f"{name}_axes"], [target], name)]
    axis = place.batch_axis
    rest = [index for index in range(rank) if index != axis]
    to_front = [axis, *rest]
    order = to_front if back else [to_front.index(index) for index in range(rank)]
    return [helper.make_node("Transpose", [source], [target], f"{target}_transpose", perm=order)]


def rename(graph: GraphProto, old: str, new: str) -> None:
    """Renames a tensor wherever a graph, or a graph inside its nodes, makes or uses it."""
    if old == new:
        return
    for node in structure.nodes(graph, "the graph"):
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
        for inner in structure.bodies(node):
            for entry in (*inner.input, *inner.output, *inner.initializer, *inner.value_info):
                if entry.name == old:
                    entry.name = new
    for entry in (*graph.output, *graph.initializer, *graph.value_info):
        if entry.name == old:
            entry.name = new


def _release(graph: GraphProto, name: str) -> None:
    """Gives another name to a tensor inside the graph that has this one."""
    if name not in {value.name for value in (*graph.input, *graph.output)}:
        rename(graph, name, unused(graph, name))


def unused(graph: GraphProto, name: str) -> str:
    """The name, or one with a number that no tensor has."""
    nodes = list(structure.nodes(graph, "the graph"))
    used = {entry for node in nodes for entry in (*node.input, *node.output)}
    for part in (graph, *(inner for node in nodes for inner in structure.bodies(node))):
        used |= {entry.name for entry in (*part.input, *part.output, *part.initializer)}
    candidate, number = name, 2
    while candidate in used:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def clean(model: ModelProto) -> None:
    """Removes text that computes nothing: documentation, metadata, paths of other machines."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def set_outputs(model: ModelProto, outputs: Sequence[Tensor]) -> None:
    """Leaves only these outputs, in their order and with their shapes."""
    graph = model.graph
    kept = {value.name: ValueInfoProto.FromString(value.SerializeToString()) for value in graph.output}
    del graph.output[:]
    for tensor in outputs:
        value = kept[tensor.name]
        if not value.type.tensor_type.elem_type:
            value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
        if set_dimensions(value, tensor.shape):
            del graph.value_info[:]
        graph.output.append(value)
