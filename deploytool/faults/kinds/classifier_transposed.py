"""The classifier's weights are read in the other order: rows for columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for the last layer, if it is a matrix product in disguise or not."""
    for node in graph.layers()[-1:]:
        weight = node.input[1]
        values = graph.weight(weight)
        if values.size == values.shape[0] * values.shape[1]:
            turned = values.reshape(values.shape[:2]).T.reshape(values.shape)
            same = "it is symmetric" if np.array_equal(turned, values) else None
            yield Fault(node.output[0], lambda spoiled, to=turned, name=weight: spoiled.put(name, to), same=same)  # type: ignore[misc]
