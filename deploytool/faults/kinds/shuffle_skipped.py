"""A channel shuffle is skipped, or mixes groups the wrong way round."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every transposition between two reshapes, and for every gather of channels."""
    found = [_skipped(node) for node in graph.nodes("Transpose") if _is_shuffle(graph, node)]
    found += [_turned(graph, node) for node in graph.nodes("Gather") if _is_order(graph, node)]
    yield from rng.permutation(np.array(found, object)) if found else ()


def _is_shuffle(graph: FaultGraph, node: onnx.NodeProto) -> bool:
    maker = graph.maker(node.input[0])
    readers = {reader.op_type for reader in graph.readers(node.output[0])}
    return maker is not None and maker.op_type == "Reshape" and "Reshape" in readers


def _skipped(node: onnx.NodeProto) -> Fault:
    output = node.output[0]

    def plant(graph: FaultGraph) -> None:
        spoiled = graph.maker(output)
        assert spoiled is not None
        perm = attribute(spoiled, "perm")
        set_attribute(spoiled, "perm", list(range(len(perm.ints) if perm else 0)))

    return Fault(output, plant)


def _is_order(graph: FaultGraph, node: onnx.NodeProto) -> bool:
    return graph.has_weight(node.input[1]) and graph.weight(node.input[1]).size > 1


def _turned(graph: FaultGraph, node: onnx.NodeProto) -> Fault:
    order = node.input[1]
    return Fault(node.output[0], lambda spoiled: spoiled.put(order, np.roll(graph.weight(order), 1)))
