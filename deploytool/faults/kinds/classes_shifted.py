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

    def plant(faulty: FaultGraph) -> None:
        producer = faulty.producer(output)
        assert producer is not None
        inner = f"{output}/unshifted"
        for node in faulty.model.graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == output else name for name in names]
        faulty.put(f"{output}/order", order)
        gather = faulty.model.graph.node.add()
        gather.op_type, gather.name = "Gather", f"{output}/shifted"
        gather.input.extend([inner, f"{output}/order"])
        gather.output.append(output)
        axis = gather.attribute.add()
        axis.name, axis.type, axis.i = "axis", 2, 1

    return Fault(output, plant, float(by))
