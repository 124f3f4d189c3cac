"""A bias is dropped, or a part of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph

_PARTS = (0.001, 0.01, 0.1, 1.0)


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Takes a part, or all, of the bias of a random layer away, without end."""
    layers = [node for node in graph.layers() if len(node.input) > 2 and graph.has_weight(node.input[2])]
    while layers:
        yield _fault(graph, layers[rng.integers(len(layers))], float(rng.choice(_PARTS)))


def _fault(graph: FaultGraph, node: onnx.NodeProto, part: float) -> Fault:
    bias = node.input[2]
    values = graph.weight(bias)
    same = "the bias is zero anyway" if not values.any() else None
    return Fault(node.output[0], lambda spoiled: spoiled.put(bias, values * (1 - part)), part, same)
