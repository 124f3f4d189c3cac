"""Moves a channel shuffle behind the layer that makes its tensor smaller, so that it moves fewer values.

Pooling and depthwise convolutions compute each channel by itself. Before a shuffle instead of behind it they compute
the same, if the kernels of the depthwise convolutions are in the order of the channels there.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.shuffle_chains import Shuffle, ShuffleChain, copy_nodes, find


def apply(graph: EditableGraph) -> Outcome:
    """Moves every shuffle between two convolutions behind the last layer between them that has fewer positions."""
    applied, skipped = list[str](), list[str]()
    for chain in find(graph):
        if isinstance(chain, str):
            skipped.append(chain)
        elif count := _shrinking(graph, chain):
            applied.append(_delay(graph, chain, count))
        elif chain.shuffle.nodes[0].name not in applied:
            skipped.append(f"{chain.shuffle.nodes[0].name}: no layer behind it has fewer positions")
    return Outcome(tuple(applied), tuple(skipped) if applied or skipped else ("no channel shuffle is left",))


def _shrinking(graph: EditableGraph, chain: ShuffleChain) -> int:
    """How many nodes behind the shuffle go before it: up to the last one that has fewer positions than its input."""
    positions = [_positions(graph, name) for name in (chain.shuffle.output, *(node.output[0] for node in chain.late))]
    shrinking = [index for index, after in enumerate(positions[1:], 1) if 0 < after < positions[index - 1]]
    return shrinking[-1] if shrinking and all(positions) else 0


def _positions(graph: EditableGraph, tensor: str) -> int:
    """The number of positions of a tensor; 0 if it is unknown."""
    shape = graph.shape(tensor)
    return math.prod(size or 0 for size in shape[2:]) if shape is not None and len(shape) == 4 else 0


def _delay(graph: EditableGraph, chain: ShuffleChain, count: int) -> str:
    """Moves the shuffle behind so many nodes; returns the name of its first node there."""
    moved, shuffle = chain.late[:count], chain.shuffle
    new = copy_nodes(graph, moved, shuffle.input, np.argsort(shuffle.order))
    behind = _shuffle(graph, shuffle, new[-1].output[0], moved[-1].output[0])
    graph.replace([*shuffle.nodes, *moved], [*new, *behind])
    return behind[0].name


def _shuffle(graph: EditableGraph, shuffle: Shuffle, source: str, output: str) -> list[NodeProto]:
    """The same shuffle of a tensor of another height and width, by nodes of the same kind."""
    first = shuffle.nodes[0]
    if first.op_type == "Gather":
        return [graph.make_node("Gather", first, [source, first.input[1]], output, axis=1)]
    shape = graph.shape(output)
    assert shape is not None
    channels, width = len(shuffle.order), int(shuffle.order[1])
    stem = first.name.rpartition("/")[0]
    split = graph.add_weight(f"{stem}/split", np.array([0, channels // width, width, *shape[2:]], np.int64))
    joined = graph.add_weight(f"{stem}/joined", np.array([0, channels, *shape[2:]], np.int64))
    reshaped = graph.make_node("Reshape", first, [source, split], "")
    transposed = graph.make_node("Transpose", first, [reshaped.output[0]], "", perm=[0, 2, 1, 3, 4])
    return [reshaped, transposed, graph.make_node("Reshape", first, [transposed.output[0], joined], output)]
