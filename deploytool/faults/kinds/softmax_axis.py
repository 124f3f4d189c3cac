"""Fault: a softmax or a log-softmax runs along another axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every softmax of three axes or more: along the axis before, or after the first."""
    softmaxes = graph.nodes("Softmax", "LogSoftmax")
    candidates = [_fault(node, rank) for node in softmaxes if (rank := len(graph.shapes.get(node.output[0], []))) > 2]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _fault(node: onnx.NodeProto, rank: int) -> Fault:
    output, axis = node.output[0], attribute(node, "axis")
    current = (axis.i if axis else -1) % rank
    other = current - 1 if current > 1 else current + 1

    def plant(faulty: FaultGraph) -> None:
        softmax = faulty.producer(output)
        assert softmax is not None
        set_attribute(softmax, "axis", other)

    return Fault(f"{output}, axis {other} for {current}", plant)
