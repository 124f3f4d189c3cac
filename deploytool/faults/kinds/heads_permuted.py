"""Fault: the heads of an attention are in another order, or are not separated from the tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import attention
from deploytool.faults.kinds.attention import Attention
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute

_HEAD_AXIS = 1


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """For every attention: its heads, or those of its queries, rolled by one; heads merged or split otherwise."""
    candidates = []
    for found in attention.find(graph):
        candidates += _rolled(graph, found)
        candidates += [_merged(node) for node in graph.consumers(found.mixed) if _merges(graph, node)]
    candidates += [fault for node in graph.nodes("Transpose") if (fault := _split(graph, node)) is not None]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _rolled(graph: FaultGraph, found: Attention) -> list[Fault]:
    """The heads of the result and of the queries in another order; none where the heads have no axis of their own."""
    product = graph.producer(found.scores)
    assert product is not None
    tensors = [found.mixed, product.input[0]] if found.heads > 1 else []
    return [_roll(tensor, found.heads) for tensor in tensors if len(graph.shapes.get(tensor, [])) == 4]


def _roll(tensor: str, heads: int) -> Fault:
    order = np.roll(np.arange(heads), 1)
    return Fault(f"heads of {tensor}", lambda faulty: faulty.insert(tensor, "Gather", order, _HEAD_AXIS))


def _merges(graph: FaultGraph, node: onnx.NodeProto) -> bool:
    """Whether a node moves the heads behind the tokens for a reshape to a constant shape, which merges them."""
    readers = [reader for reader in graph.consumers(node.output[0]) if reader.op_type == "Reshape"]
    return node.op_type == "Transpose" and any(graph.has_weight(reader.input[1]) for reader in readers)


def _merged(node: onnx.NodeProto) -> Fault:
    """The heads are merged as if their axis already followed that of the tokens."""
    output = node.output[0]

    def plant(faulty: FaultGraph) -> None:
        transpose = faulty.producer(output)
        assert transpose is not None
        perm = attribute(transpose, "perm")
        set_attribute(transpose, "perm", sorted(perm.ints) if perm else [])

    return Fault(f"merge of {output}", plant)


def _split(graph: FaultGraph, node: onnx.NodeProto) -> Fault | None:
    """Queries, keys and values of each head lie side by side, instead of all queries, all keys, all values."""
    perm, reshape = attribute(node, "perm"), graph.producer(node.input[0])
    if perm is None or len(perm.ints) != 5 or reshape is None or reshape.op_type != "Reshape":
        return None
    if not graph.has_weight(reshape.input[1]):
        return None
    sides, order = graph.weight(reshape.input[1]).tolist(), list(perm.ints)
    if sides[2] != 3 or sides[3] <= 1 or order[0] != 2:
        return None
    output, source = node.output[0], reshape.output[0]

    def plant(faulty: FaultGraph) -> None:
        first, second = faulty.producer(source), faulty.producer(output)
        assert first is not None
        assert second is not None
        shape = f"{source}/shape"
        faulty.put(shape, np.array([*sides[:2], sides[3], sides[2], sides[4]], np.int64))
        first.input[1] = shape
        set_attribute(second, "perm", [{2: 3, 3: 2}.get(axis, axis) for axis in order])

    return Fault(f"split of {output}", plant)
