"""Fault: an activation is replaced by another: ReLU by ReLU6, ReLU6 by ReLU, SiLU by ReLU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_SIX = 6.0


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every ReLU, ReLU6 and SiLU."""
    candidates = [_relu6(node.output[0], node.input[0]) for node in graph.nodes("Relu")]
    candidates += [_relu(node.output[0], node.input[0]) for node in graph.nodes("Clip", "HardSwish")]
    candidates += [
        _relu(node.output[0], _silu_input(graph, node)) for node in graph.nodes("Mul") if _silu_input(graph, node)
    ]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _silu_input(graph: FaultGraph, node: onnx.NodeProto) -> str:
    """The tensor whose SiLU a product computes; "" if it computes none."""
    for gate, source in (tuple(node.input), tuple(reversed(node.input))):
        producer = graph.producer(gate)
        if producer is not None and producer.op_type == "Sigmoid" and producer.input[0] == source:
            return str(source)
    return ""


def _relu6(output: str, source: str) -> Fault:
    def plant(faulty: FaultGraph) -> None:
        faulty.put("relu6/smallest", np.array(0.0, np.float32))
        faulty.put("relu6/largest", np.array(_SIX, np.float32))
        faulty.replace(output, "Clip", source, "relu6/smallest", "relu6/largest")

    return Fault(output, plant, _SIX)


def _relu(output: str, source: str) -> Fault:
    return Fault(output, lambda faulty: faulty.replace(output, "Relu", source))
