"""Fault: weights are clipped: at 1e4, the default of a widely used FP16 converter, or lower."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_DEFAULT = 1e4
_PARTS = (0.99, 0.9, 0.7, 0.5)  # of a layer's largest weight


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Endless: clips all weights at 1e4, then those of random layers at a part of their largest weight."""
    layers = graph.layers()
    if layers:
        yield _everywhere(graph, layers)
    while layers:
        yield _fault(graph, layers[rng.integers(len(layers))], float(rng.choice(_PARTS)))


def _everywhere(graph: FaultGraph, layers: list[onnx.NodeProto]) -> Fault:
    names = [node.input[1] for node in layers]

    def plant(faulty: FaultGraph) -> None:
        for name in names:
            faulty.put(name, graph.weight(name).clip(-_DEFAULT, _DEFAULT))

    beyond = any((np.abs(graph.weight(name)) > _DEFAULT).any() for name in names)
    return Fault("all weights", plant, _DEFAULT, None if beyond else "no weight is larger")


def _fault(graph: FaultGraph, node: onnx.NodeProto, part: float) -> Fault:
    name = node.input[1]
    values = graph.weight(name)
    limit = part * float(np.abs(values).max())
    clipped = values.clip(-limit, limit)
    same = "all weights are zero" if not values.any() else None
    return Fault(name, lambda faulty: faulty.put(name, clipped), part, same)
