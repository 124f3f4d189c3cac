"""Fault: an average pool treats its padding the other way; `count_include_pad` is inverted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every average pool."""
    candidates = [_fault(node) for node in graph.nodes("AveragePool")]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _fault(node: onnx.NodeProto) -> Fault:
    output, current, pads = node.output[0], attribute(node, "count_include_pad"), attribute(node, "pads")
    counted = bool(current and current.i)

    def plant(faulty: FaultGraph) -> None:
        flipped = faulty.producer(output)
        assert flipped is not None
        set_attribute(flipped, "count_include_pad", int(not counted))

    ceil = attribute(node, "ceil_mode")
    none = (pads is None or not any(pads.ints)) and not (ceil and ceil.i)
    return Fault(output, plant, same="it has no padding" if none else None)
