"""Fault: the classes are off by one, as if a background class was added or removed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Shifts the classes of every output with class scores by one in either direction."""
    for output in graph.model.graph.output:
        sides = output.type.tensor_type.shape.dim
        if len(sides) == 2 and sides[1].dim_value > 1:
            for by in (1, -1):
                yield _fault(output.name, sides[1].dim_value, by)


def _fault(output: str, classes: int, by: int) -> Fault:
    order = np.roll(np.arange(classes), by)
    return Fault(output, lambda faulty: faulty.append(output, "Gather", order, 1), float(by))
