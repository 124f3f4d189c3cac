"""Fault: a channel shuffle is skipped, or permutes channels differently."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every Transpose between two Reshapes, and for every Gather by constant indices."""
    candidates = [_skipped(node) for node in graph.nodes("Transpose") if _is_shuffle(graph, node)]
    candidates += [_rolled(graph, node) for node in graph.nodes("Gather") if _is_permutation(graph, node)]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _is_shuffle(graph: FaultGraph, node: onnx.NodeProto) -> bool:
    producer = graph.producer(node.input[0])
    consumers = {consumer.op_type for consumer in graph.consumers(node.output[0])}
    return producer is not None and producer.op_type == "Reshape" and "Reshape" in consumers


def _skipped(node: onnx.NodeProto) -> Fault:
    output = node.output[0]

    def plant(faulty: FaultGraph) -> None:
        transpose = faulty.producer(output)
        assert transpose is not None
        perm = attribute(transpose, "perm")
        set_attribute(transpose, "perm", list(range(len(perm.ints) if perm else 0)))

    return Fault(output, plant)


def _is_permutation(graph: FaultGraph, node: onnx.NodeProto) -> bool:
    return graph.has_weight(node.input[1]) and graph.weight(node.input[1]).size > 1


def _rolled(graph: FaultGraph, node: onnx.NodeProto) -> Fault:
    order = node.input[1]
    return Fault(node.output[0], lambda faulty: faulty.put(order, np.roll(graph.weight(order), 1)))
