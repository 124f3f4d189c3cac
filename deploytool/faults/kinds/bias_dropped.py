"""Fault: a bias is missing, wholly or in part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_PARTS = (0.001, 0.01, 0.1, 1.0)


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Endless: reduces the bias of a random layer by a part, or removes it."""
    layers = [node for node in graph.layers() if len(node.input) > 2 and graph.has_weight(node.input[2])]
    while layers:
        yield _fault(graph, layers[rng.integers(len(layers))], float(rng.choice(_PARTS)))


def _fault(graph: FaultGraph, node: onnx.NodeProto, part: float) -> Fault:
    bias = node.input[2]
    values = graph.weight(bias)
    same = "the bias is zero" if not values.any() else None
    return Fault(node.output[0], lambda faulty: faulty.put(bias, values * (1 - part)), part, same)
