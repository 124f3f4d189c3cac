"""Fault: asymmetric padding is at the other end, as between TensorFlow and PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every convolution and pool with padding."""
    nodes = graph.nodes("Conv", "MaxPool", "AveragePool")
    candidates = [fault for node in nodes if (fault := _fault(node)) is not None]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _fault(node: onnx.NodeProto) -> Fault | None:
    pads = attribute(node, "pads")
    if pads is None or not any(pads.ints):
        return None
    half = len(pads.ints) // 2
    first, last = list(pads.ints[:half]), list(pads.ints[half:])
    if first == last:
        moved_last = [after + min(1, before) for before, after in zip(first, last, strict=True)]
        first, last = [max(0, before - 1) for before in first], moved_last
    else:
        first, last = last, first
    output = node.output[0]

    def plant(faulty: FaultGraph) -> None:
        moved = faulty.producer(output)
        assert moved is not None
        set_attribute(moved, "pads", [*first, *last])

    return Fault(output, plant)
