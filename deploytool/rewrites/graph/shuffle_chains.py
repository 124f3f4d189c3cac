"""The passage: from one convolution over channel by channel work, with or without a shuffle, to the next one.

Nobody else sees the channels on the way, so they may stand in any order, and others may stand among them, as long as
the first convolution makes them so and the last one reads them so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution, take
from deploytool.rewrites.graph.editable import Array, EditableGraph, attributes
from deploytool.rewrites.graph.parallel_branches import is_unary
from deploytool.rewrites.graph.shapes import Shape

_POOLS = ("AveragePool", "MaxPool")


@dataclass(frozen=True)
class Shuffle:
    """The nodes that put the channels of a tensor in another order: result channel i is source channel `order[i]`."""

    nodes: tuple[NodeProto, ...]
    order: Array

    @property
    def source(self) -> str:
        """The tensor that is shuffled."""
        return str(self.nodes[0].input[0])

    @property
    def result(self) -> str:
        """The tensor that is in order."""
        return str(self.nodes[-1].output[0])


@dataclass(frozen=True)
class ShuffleChain:
    """From `first` to `last`, with the nodes before and after the shuffle, each the only reader of the one before.

    The nodes between work channel by channel: on each value by itself, pooling, or depthwise convolution.
    """

    first: Convolution
    early: tuple[NodeProto, ...]
    shuffle: Shuffle
    late: tuple[NodeProto, ...]
    last: Convolution


def shuffles(draft: EditableGraph) -> list[Shuffle]:
    """Every shuffle of a graph: Reshape, Transpose, Reshape, or Gather over channels."""
    reshapes = [node for node in draft.nodes if node.op_type == "Reshape"]
    return [found for node in draft.nodes if (found := _gathered(draft, node) or _dealt(draft, node, reshapes))]


def _gathered(draft: EditableGraph, node: NodeProto) -> Shuffle | None:
    if node.op_type != "Gather" or attributes(node).get("axis", 0) != 1:
        return None
    order, shape = draft.constant(node.input[1]), draft.shape(node.input[0])
    if order is None or order.ndim != 1 or shape is None or len(shape) != 4 or len(order) != shape[1]:
        return None
    order = order % len(order)
    return Shuffle((node,), order) if len(set(order.tolist())) == len(order) else None


def _dealt(draft: EditableGraph, node: NodeProto, reshapes: Sequence[NodeProto]) -> Shuffle | None:
    """A shuffle that begins with this Reshape: into groups, groups and places exchanged, and back."""
    turn = draft.only_reader(node.output[0], reshapes) if node.op_type == "Reshape" else None
    back = draft.only_reader(turn.output[0], reshapes) if turn is not None and turn.op_type == "Transpose" else None
    if turn is None or back is None or back.op_type != "Reshape" or back.input[0] != turn.output[0]:
        return None
    before, dealt, after = draft.shape(node.input[0]), draft.shape(node.output[0]), _restored(draft, back.output[0])
    if before is None or dealt is None or len(before) != 4 or len(dealt) < 4 or before[1:] != after:
        return None
    channels, *sides = (size or 0 for size in before[1:])
    groups, each, *places = (size or 0 for size in dealt[1:])
    swapped = [0, 2, 1, *range(3, len(dealt))]
    if not channels or groups * each != channels or math.prod(places) != math.prod(sides) or 0 in sides:
        return None
    if list(attributes(turn).get("perm", ())) != swapped:
        return None
    return Shuffle((node, turn, back), np.arange(channels).reshape(groups, each).T.reshape(-1))


def _restored(draft: EditableGraph, tensor: str) -> Shape | None:
    """The shape of a tensor without its batch; how many channels it has may only be known from who reads it."""
    shape = draft.shape(tensor)
    if shape is None or len(shape) != 4:
        return None
    read = {conv.inputs for node in draft.readers(tensor) if (conv := convolution.read(draft, node))}
    return (read.pop() if shape[1] is None and read else shape[1], *shape[2:])


def find(draft: EditableGraph) -> Iterator[ShuffleChain | str]:
    """The passage around every shuffle of a graph, or why there is none; the draft may be edited between two."""
    place = 0
    while place < len(found := shuffles(draft)):
        before = draft.nodes
        yield _passage(draft, found[place])
        if draft.nodes is before:
            place += 1


def _passage(draft: EditableGraph, shuffle: Shuffle) -> ShuffleChain | str:
    name = shuffle.nodes[0].name
    early: list[NodeProto] = []
    tensor = shuffle.source
    while True:
        node = draft.maker(tensor)
        if node is None or draft.only_reader(tensor, shuffle.nodes) is None:
            return f"{name}: what is shuffled has other readers too"
        if not keeps_channels(draft, node):
            break
        early.insert(0, node)
        tensor = node.input[0]
    first = convolution.read(draft, node)
    late: list[NodeProto] = []
    tensor = shuffle.result
    while (reader := draft.only_reader(tensor)) is not None and keeps_channels(draft, reader):
        late.append(reader)
        tensor = reader.output[0]
    last = convolution.read(draft, reader)
    if first is None or last is None or last.source != tensor:
        return f"{name}: it does not lie between two convolutions"
    return ShuffleChain(first, tuple(early), shuffle, tuple(late), last)


def keeps_channels(draft: EditableGraph, node: NodeProto) -> bool:
    """Whether a node makes each channel from that channel alone, the same way in each or as a depthwise convolution."""
    conv = convolution.read(draft, node)
    if conv is not None:
        return conv.is_depthwise()
    return (node.op_type in _POOLS and len(node.output) == 1) or is_unary(draft, node)


def carry(
    draft: EditableGraph, nodes: Sequence[NodeProto], tensor: str, layout: Array, makes: str = ""
) -> list[NodeProto]:
    """The channel by channel nodes again, for channels in the order of `layout` (-1: zeros).

    The first reads `tensor`, the last makes `makes`, if that is named.
    """
    new: list[NodeProto] = []
    for place, node in enumerate(nodes):
        conv, name = convolution.read(draft, node), makes if place == len(nodes) - 1 else ""
        if conv is not None:
            placed = replace(conv, weight=take(conv.weight, layout), bias=take(conv.bias, layout), group=len(layout))
            new.append(convolution.write(draft, placed, tensor, name))
        else:
            new.append(draft.node(node.op_type, node, [tensor, *node.input[1:]], name, **attributes(node)))
        tensor = new[-1].output[0]
    return new


def everything(passage: ShuffleChain) -> list[NodeProto]:
    """All nodes of a passage."""
    return [passage.first.node, *passage.early, *passage.shuffle.nodes, *passage.late, passage.last.node]


def padded(groups: Sequence[Sequence[int]], multiple: int) -> Array:
    """The channels of groups one after the other, each group filled up with -1 to the same multiple."""
    width = -(-max(len(group) for group in groups) // multiple) * multiple
    return np.array([channel for group in groups for channel in [*group, *[-1] * (width - len(group))]])
