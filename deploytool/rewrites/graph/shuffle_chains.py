"""Finds shuffle chains: a convolution, channel-by-channel nodes around a channel shuffle, and the next convolution.

The tensors inside a chain have no other consumers. Their channels may be reordered or padded, as long as the first
convolution produces them so and the last one reads them so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution, take_channels
from deploytool.rewrites.graph.editable import Array, EditableGraph, attributes
from deploytool.rewrites.graph.parallel_branches import is_unary
from deploytool.rewrites.graph.shapes import Shape

_POOLS = ("AveragePool", "MaxPool")


@dataclass(frozen=True)
class Shuffle:
    """The nodes that permute the channels of a tensor: output channel i is input channel `order[i]`."""

    nodes: tuple[NodeProto, ...]
    order: Array

    @property
    def input(self) -> str:
        """The tensor before the shuffle."""
        return str(self.nodes[0].input[0])

    @property
    def output(self) -> str:
        """The tensor after the shuffle."""
        return str(self.nodes[-1].output[0])


@dataclass(frozen=True)
class ShuffleChain:
    """The nodes from convolution `first` to convolution `last`, each the only consumer of the one before.

    `early` are the nodes before the shuffle and `late` those after it. They work channel by channel: elementwise
    functions, pooling and depthwise convolutions.
    """

    first: Convolution
    early: tuple[NodeProto, ...]
    shuffle: Shuffle
    late: tuple[NodeProto, ...]
    last: Convolution


def find_shuffles(graph: EditableGraph) -> list[Shuffle]:
    """Every channel shuffle of a graph: Reshape, Transpose and Reshape, or Gather."""
    reshapes = [node for node in graph.nodes if node.op_type == "Reshape"]
    matches = (_match_gather(graph, node) or _match_reshapes(graph, node, reshapes) for node in graph.nodes)
    return [shuffle for shuffle in matches if shuffle]


def _match_gather(graph: EditableGraph, node: NodeProto) -> Shuffle | None:
    """The shuffle that this Gather is, or None."""
    if node.op_type != "Gather" or attributes(node).get("axis", 0) != 1:
        return None
    order, shape = graph.constant(node.input[1]), graph.shape(node.input[0])
    if order is None or order.ndim != 1 or shape is None or len(shape) != 4 or len(order) != shape[1]:
        return None
    order = order % len(order)
    return Shuffle((node,), order) if len(set(order.tolist())) == len(order) else None


def _match_reshapes(graph: EditableGraph, node: NodeProto, reshapes: Sequence[NodeProto]) -> Shuffle | None:
    """The shuffle that starts at this Reshape, or None: split into groups, transpose, and flatten again."""
    transpose = graph.only_consumer(node.output[0], reshapes) if node.op_type == "Reshape" else None
    if transpose is None or transpose.op_type != "Transpose":
        return None
    last = graph.only_consumer(transpose.output[0], reshapes)
    if last is None or last.op_type != "Reshape" or last.input[0] != transpose.output[0]:
        return None
    before, split = graph.shape(node.input[0]), graph.shape(node.output[0])
    after = _shape_without_batch(graph, last.output[0])
    if before is None or split is None or len(before) != 4 or len(split) < 4 or before[1:] != after:
        return None
    channels, *size = (dim or 0 for dim in before[1:])
    groups, width, *split_size = (dim or 0 for dim in split[1:])
    if not channels or groups * width != channels or math.prod(split_size) != math.prod(size) or 0 in size:
        return None
    if list(attributes(transpose).get("perm", ())) != [0, 2, 1, *range(3, len(split))]:
        return None
    return Shuffle((node, transpose, last), np.arange(channels).reshape(groups, width).T.reshape(-1))


def _shape_without_batch(graph: EditableGraph, tensor: str) -> Shape | None:
    """The shape of a tensor without its batch; an unknown number of channels is taken from its consumers."""
    shape = graph.shape(tensor)
    if shape is None or len(shape) != 4:
        return None
    widths = {conv.in_channels for node in graph.consumers(tensor) if (conv := convolution.read(graph, node))}
    return (widths.pop() if shape[1] is None and widths else shape[1], *shape[2:])


def find(graph: EditableGraph) -> Iterator[ShuffleChain | str]:
    """The chain around every shuffle of a graph, or why there is none; the graph may be edited between items."""
    index = 0
    while index < len(shuffles := find_shuffles(graph)):
        before = graph.nodes
        yield _chain(graph, shuffles[index])
        if graph.nodes is before:  # else the edit has removed this shuffle
            index += 1


def _chain(graph: EditableGraph, shuffle: Shuffle) -> ShuffleChain | str:
    name = shuffle.nodes[0].name
    early: list[NodeProto] = []
    tensor = shuffle.input
    while True:
        node = graph.producer(tensor)
        if node is None or graph.only_consumer(tensor, shuffle.nodes) is None:
            return f"{name}: the shuffled tensor has other consumers"
        if not keeps_channels(graph, node):
            break
        early.insert(0, node)
        tensor = node.input[0]
    first = convolution.read(graph, node)
    late: list[NodeProto] = []
    tensor = shuffle.output
    while (consumer := graph.only_consumer(tensor)) is not None and keeps_channels(graph, consumer):
        late.append(consumer)
        tensor = consumer.output[0]
    last = convolution.read(graph, consumer)
    if first is None or last is None or last.input != tensor:
        return f"{name}: it does not lie between two convolutions"
    return ShuffleChain(first, tuple(early), shuffle, tuple(late), last)


def keeps_channels(graph: EditableGraph, node: NodeProto) -> bool:
    """Whether a node computes each output channel from the same input channel alone."""
    conv = convolution.read(graph, node)
    if conv is not None:
        return conv.is_depthwise()
    return (node.op_type in _POOLS and len(node.output) == 1) or is_unary(graph, node)


def copy_nodes(
    graph: EditableGraph, nodes: Sequence[NodeProto], tensor: str, layout: Array, output: str = ""
) -> list[NodeProto]:
    """Copies of channel-by-channel nodes for channels in the order of `layout` (-1: a channel of zeros).

    The first copy reads `tensor`; the last produces `output` if that is not empty.
    """
    new: list[NodeProto] = []
    for index, node in enumerate(nodes):
        conv, name = convolution.read(graph, node), output if index == len(nodes) - 1 else ""
        if conv is not None:
            weight, bias = take_channels(conv.weight, layout), take_channels(conv.bias, layout)
            copy = replace(conv, weight=weight, bias=bias, group=len(layout))
            new.append(convolution.write(graph, copy, tensor, name))
        else:
            new.append(graph.make_node(node.op_type, node, [tensor, *node.input[1:]], name, **attributes(node)))
        tensor = new[-1].output[0]
    return new


def all_nodes(chain: ShuffleChain) -> list[NodeProto]:
    """All nodes of a chain, both convolutions included."""
    return [chain.first.node, *chain.early, *chain.shuffle.nodes, *chain.late, chain.last.node]


def padded_layout(groups: Sequence[Sequence[int]], multiple: int) -> Array:
    """The channels of all groups in sequence, each group padded with -1 to the same multiple of `multiple`."""
    width = -(-max(len(group) for group in groups) // multiple) * multiple
    return np.array([channel for group in groups for channel in [*group, *[-1] * (width - len(group))]])
