"""Fault: the classifier's weights are read in the other memory order, as if transposed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for the last layer, if its weight is a matrix; a 1 × 1 convolution counts too."""
    for node in graph.layers()[-1:]:
        weight = node.input[1]
        values = graph.weight(weight)
        if values.size == values.shape[0] * values.shape[1]:
            transposed = values.reshape(values.shape[:2]).T.reshape(values.shape)
            same = "the matrix is symmetric" if np.array_equal(transposed, values) else None
            yield Fault(node.output[0], lambda faulty, to=transposed, name=weight: faulty.put(name, to), same=same)  # type: ignore[misc]
