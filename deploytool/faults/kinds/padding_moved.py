"""An asymmetric padding is moved: what belongs at the end stands at the beginning, as in TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every convolution and pool that pads at all."""
    nodes = graph.nodes("Conv", "MaxPool", "AveragePool")
    found = [fault for node in nodes if (fault := _fault(node)) is not None]
    yield from rng.permutation(np.array(found, object)) if found else ()


def _fault(node: onnx.NodeProto) -> Fault | None:
    held = attribute(node, "pads")
    if held is None or not any(held.ints):
        return None
    half = len(held.ints) // 2
    first, last = list(held.ints[:half]), list(held.ints[half:])
    if first == last:
        first, last = [max(0, each - 1) for each in first], [b + min(1, a) for a, b in zip(first, last, strict=True)]
    else:
        first, last = last, first
    output = node.output[0]

    def plant(spoiled: FaultGraph) -> None:
        moved = spoiled.maker(output)
        assert moved is not None
        set_attribute(moved, "pads", [*first, *last])

    return Fault(output, plant)
