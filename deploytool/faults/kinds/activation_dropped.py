"""Fault: an activation is missing, and its input passes unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Sigmoid", "HardSigmoid", "Tanh", "Elu", "Gelu")


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every activation; for the sigmoid of a SiLU its product is removed too."""
    candidates = [_fault(graph, node) for node in graph.nodes(*_ACTIVATIONS)]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _fault(graph: FaultGraph, node: onnx.NodeProto) -> Fault:
    source = node.input[0]
    consumers = graph.consumers(node.output[0])
    product = next((reader for reader in consumers if reader.op_type == "Mul" and source in reader.input), node)
    output = product.output[0]

    def plant(faulty: FaultGraph) -> None:
        dropped = faulty.producer(output)
        assert dropped is not None
        dropped.op_type = "Identity"
        dropped.input[:] = [source]
        del dropped.attribute[:]

    without_effect = node.op_type == "Relu" and graph.never_negative(source)
    return Fault(output, plant, same="its input is never negative" if without_effect else None)
