"""Faults to plant in a graph, and the modules of the faulty layers, from the order of the model's calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from deploytool.backends import eager
from deploytool.loading import weights_file

Weight = npt.NDArray[Any]
Plant = Callable[[onnx.GraphProto, onnx.NodeProto], None]


def scale_filter(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _edit_largest_filter(graph, node, lambda values: 3 * values)


def nudge_filter(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _edit_largest_filter(graph, node, lambda values: 1.002 * values)


def zero_channel(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _edit_largest_filter(graph, node, lambda values: 0 * values)


def overflow(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _edit_largest_filter(graph, node, lambda values: np.full_like(values, np.inf))


def permute_channels(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _edit_weight(graph, node, lambda weight: np.roll(weight, 1, axis=0))


def flip_kernel(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _edit_weight(graph, node, _flip)


def drop_bias(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    del node.input[2:]


def move_padding(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    pads = next(attribute for attribute in node.attribute if attribute.name == "pads")
    assert list(pads.ints) == [1, 1, 1, 1]
    pads.ints[:] = [0, 0, 2, 2]


def replace_by_identity(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    node.op_type = "Identity"


def bypass(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    for consumer in graph.node:
        consumer.input[:] = [node.input[0] if name == node.output[0] else name for name in consumer.input]
    graph.node.remove(node)


def drop_permutation(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    node.attribute[0].ints[:] = range(len(node.attribute[0].ints))


def repeat_first_input(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    node.input[1] = node.input[0]


def reverse_inputs(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    node.input[:] = reversed(node.input)


def plant(source: Path, out: Path, op: str, number: int, fault: Plant) -> str:
    """Applies a fault to the `number`-th node with that operator; returns the name of its first output."""
    model = onnx.load(source)
    node = [node for node in _data_nodes(model.graph) if node.op_type == op][number]
    tensor = str(node.output[0])
    fault(model.graph, node)
    onnx.save(model, out)
    return tensor


def _data_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that depend on the input data, without arithmetic on shapes."""
    data = {value.name for value in graph.input}
    nodes = []
    for node in graph.node:
        if node.op_type != "Shape" and node.input and data & set(node.input):
            data |= set(node.output)
            nodes.append(node)
    return nodes


def modules_in_call_order(weights: Path, kind: str) -> list[set[str]]:
    """The modules of a layer type in the order they run, each convolution together with its folded batch norm."""
    module, model = eager.load_module(weights), weights_file.definition(weights)
    calls: list[tuple[str, nn.Module]] = []
    for name, submodule in module.named_modules():
        submodule.register_forward_hook(lambda submodule, *_, name=name: calls.append((name, submodule)))
    module(torch.zeros(1, *(int(side) for side in model.inputs[0].shape[1:])))
    leaves = [(name, leaf) for name, leaf in calls if not list(leaf.children()) and not isinstance(leaf, nn.Identity)]
    modules = []
    for (name, leaf), (next_name, following) in zip(leaves, [*leaves[1:], ("", nn.Identity())], strict=True):
        if type(leaf).__name__ == kind:
            modules.append({name, next_name} if isinstance(following, nn.BatchNorm2d) else {name})
    return modules


def _edit_largest_filter(graph: onnx.GraphProto, node: onnx.NodeProto, edit: Callable[[Weight], Weight]) -> None:
    """Edits the filter (output channel) with the largest sum of absolute values."""

    def edit_weight(weight: Weight) -> Weight:
        largest = int(np.abs(weight.astype(np.float64)).reshape(len(weight), -1).sum(axis=1).argmax())
        weight[largest] = edit(weight[largest])
        return weight

    _edit_weight(graph, node, edit_weight)


def _flip(weight: Weight) -> Weight:
    assert weight.shape[-1] > 1
    return weight[..., ::-1].copy()


def _edit_weight(graph: onnx.GraphProto, node: onnx.NodeProto, edit: Callable[[Weight], Weight]) -> None:
    """Gives the node an edited copy of its weight, because nodes can share one after onnxsim."""
    weight = next(initializer for initializer in graph.initializer if initializer.name == node.input[1])
    values = numpy_helper.to_array(weight)
    graph.initializer.append(numpy_helper.from_array(edit(values.copy()).astype(values.dtype), "planted"))
    node.input[1] = "planted"
