"""Faults to plant in a graph, and the modules whose layers they spoil, told from the order of the model's calls."""

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
    _rewrite(graph, node, lambda weight: _put(weight, _loudest(weight), 3 * weight[_loudest(weight)]))


def nudge_filter(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _rewrite(graph, node, lambda weight: _put(weight, _loudest(weight), 1.002 * weight[_loudest(weight)]))


def zero_channel(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _rewrite(graph, node, lambda weight: _put(weight, _loudest(weight), 0 * weight[0]))


def overflow(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _rewrite(graph, node, lambda weight: _put(weight, _loudest(weight), np.full_like(weight[0], np.inf)))


def permute_channels(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _rewrite(graph, node, lambda weight: np.roll(weight, 1, axis=0))


def flip_kernel(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    _rewrite(graph, node, _flipped)


def drop_bias(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    del node.input[2:]


def move_padding(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    pads = next(each for each in node.attribute if each.name == "pads")
    assert list(pads.ints) == [1, 1, 1, 1]
    pads.ints[:] = [0, 0, 2, 2]


def forget(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    node.op_type = "Identity"


def bypass(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    for other in graph.node:
        other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
    graph.node.remove(node)


def do_not_shuffle(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    node.attribute[0].ints[:] = range(len(node.attribute[0].ints))


def add_itself(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    node.input[1] = node.input[0]


def swap_halves(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    node.input[:] = reversed(node.input)


def plant(source: Path, out: Path, op: str, number: int, fault: Plant) -> str:
    """Spoils the `number`-th node of that kind; returns its first output."""
    model = onnx.load(source)
    nodes = _computing(model.graph)
    node = [node for node in nodes if node.op_type == op][number]
    tensor = str(node.output[0])
    fault(model.graph, node)
    onnx.save(model, out)
    return tensor


def _computing(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that compute on the data, without the arithmetic of shapes: what follows a Shape is on integers."""
    data = {each.name for each in graph.input}
    nodes = []
    for node in graph.node:
        if node.op_type != "Shape" and node.input and data & set(node.input):
            data |= set(node.output)
            nodes.append(node)
    return nodes


def calls(weights: Path, kind: str) -> list[set[str]]:
    """The modules of the `kind` of layer in the order they run; a convolution with the batch norm folded into it."""
    module, model = eager.load_module(weights), weights_file.definition(weights)
    ran: list[tuple[str, nn.Module]] = []
    for name, part in module.named_modules():
        part.register_forward_hook(lambda part, *_, name=name: ran.append((name, part)))
    module(torch.zeros(1, *(int(side) for side in model.inputs[0].shape[1:])))
    leaves = [(name, part) for name, part in ran if not list(part.children()) and not isinstance(part, nn.Identity)]
    found = []
    for (name, part), (after, following) in zip(leaves, [*leaves[1:], ("", nn.Identity())], strict=True):
        if type(part).__name__ == kind:
            found.append({name, after} if isinstance(following, nn.BatchNorm2d) else {name})
    return found


def _loudest(weight: Weight) -> int:
    return int(np.abs(weight.astype(np.float64)).reshape(len(weight), -1).sum(axis=1).argmax())


def _flipped(weight: Weight) -> Weight:
    assert weight.shape[-1] > 1
    return weight[..., ::-1].copy()


def _put(weight: Weight, at: int, values: Weight) -> Weight:
    weight[at] = values
    return weight


def _rewrite(graph: onnx.GraphProto, node: onnx.NodeProto, edit: Callable[[Weight], Weight]) -> None:
    """Gives the node an edited weight of its own: onnxsim lets nodes share one."""
    held = next(each for each in graph.initializer if each.name == node.input[1])
    values = numpy_helper.to_array(held)
    graph.initializer.append(numpy_helper.from_array(edit(values.copy()).astype(values.dtype), "planted"))
    node.input[1] = "planted"
