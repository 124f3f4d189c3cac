"""An activation is dropped: what it was given goes on unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph

_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Sigmoid", "HardSigmoid", "Tanh", "Elu", "Gelu")


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every activation; the sigmoid of a SiLU goes with the product it is part of."""
    found = [_fault(graph, node) for node in graph.nodes(*_ACTIVATIONS)]
    yield from rng.permutation(np.array(found, object)) if found else ()


def _fault(graph: FaultGraph, node: onnx.NodeProto) -> Fault:
    given = node.input[0]
    product = next((r for r in graph.readers(node.output[0]) if r.op_type == "Mul" and given in r.input), node)
    output = product.output[0]

    def plant(spoiled: FaultGraph) -> None:
        dropped = spoiled.maker(output)
        assert dropped is not None
        dropped.op_type = "Identity"
        dropped.input[:] = [given]
        del dropped.attribute[:]

    needless = node.op_type == "Relu" and graph.never_negative(given)
    return Fault(output, plant, same="what it is given is never below zero" if needless else None)
