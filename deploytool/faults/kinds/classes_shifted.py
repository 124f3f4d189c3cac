"""The classes are off by one: a background class was taken out, or put in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Rolls the classes of each output that gives scores, by one to either side."""
    for output in graph.model.graph.output:
        sides = output.type.tensor_type.shape.dim
        if len(sides) == 2 and sides[1].dim_value > 1:
            for by in (1, -1):
                yield _fault(output.name, sides[1].dim_value, by)


def _fault(output: str, classes: int, by: int) -> Fault:
    order = np.roll(np.arange(classes), by)

    def plant(spoiled: FaultGraph) -> None:
        maker = spoiled.maker(output)
        assert maker is not None
        inner = f"{output}/unshifted"
        for node in spoiled.model.graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == output else name for name in names]
        spoiled.put(f"{output}/order", order)
        gather = spoiled.model.graph.node.add()
        gather.op_type, gather.name = "Gather", f"{output}/shifted"
        gather.input.extend([inner, f"{output}/order"])
        gather.output.append(output)
        axis = gather.attribute.add()
        axis.name, axis.type, axis.i = "axis", 2, 1

    return Fault(output, plant, float(by))
