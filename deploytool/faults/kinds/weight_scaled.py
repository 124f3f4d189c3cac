"""Fault: a single weight is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_CHANGES = (0.01, 0.1, 1.0, 10.0, 100.0)  # relative


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Endless: scales a random weight of a random layer."""
    layers = graph.layers()
    while layers:
        node = layers[rng.integers(len(layers))]
        index = int(rng.integers(graph.weight(node.input[1]).size))
        yield _fault(graph, node, index, float(rng.choice(_CHANGES)))


def _fault(graph: FaultGraph, node: onnx.NodeProto, index: int, change: float) -> Fault:
    name = node.input[1]
    values = graph.weight(name).copy()
    same = "the weight is zero" if values.flat[index] == 0 else None
    values.flat[index] *= 1 + change
    return Fault(f"{name}[{index}]", lambda faulty: faulty.put(name, values), change, same)
