"""One single weight is not what it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph

_CHANGES = (0.01, 0.1, 1.0, 10.0, 100.0)  # relative


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Changes a random weight of a random layer, without end."""
    layers = graph.layers()
    while layers:
        node = layers[rng.integers(len(layers))]
        place = int(rng.integers(graph.weight(node.input[1]).size))
        yield _fault(graph, node, place, float(rng.choice(_CHANGES)))


def _fault(graph: FaultGraph, node: onnx.NodeProto, place: int, change: float) -> Fault:
    name = node.input[1]
    values = graph.weight(name).copy()
    same = "the weight is zero" if values.flat[place] == 0 else None
    values.flat[place] *= 1 + change
    return Fault(f"{name}[{place}]", lambda spoiled: spoiled.put(name, values), change, same)
