"""An activation is taken for another: ReLU6 for ReLU, ReLU for ReLU6, ReLU for SiLU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph

_SIX = 6.0


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every ReLU, ReLU6 and SiLU."""
    found = [_six(node.output[0], node.input[0]) for node in graph.nodes("Relu")]
    found += [_relu(node.output[0], node.input[0]) for node in graph.nodes("Clip", "HardSwish")]
    found += [_relu(node.output[0], _given(graph, node)) for node in graph.nodes("Mul") if _given(graph, node)]
    yield from rng.permutation(np.array(found, object)) if found else ()


def _given(graph: FaultGraph, node: onnx.NodeProto) -> str:
    """What a product is the SiLU of, "" if it is none."""
    for gate, given in (tuple(node.input), tuple(reversed(node.input))):
        maker = graph.maker(gate)
        if maker is not None and maker.op_type == "Sigmoid" and maker.input[0] == given:
            return str(given)
    return ""


def _six(output: str, given: str) -> Fault:
    def plant(spoiled: FaultGraph) -> None:
        spoiled.put("relu6/smallest", np.array(0.0, np.float32))
        spoiled.put("relu6/largest", np.array(_SIX, np.float32))
        _become(spoiled, output, "Clip", given, "relu6/smallest", "relu6/largest")

    return Fault(output, plant, _SIX)


def _relu(output: str, given: str) -> Fault:
    return Fault(output, lambda spoiled: _become(spoiled, output, "Relu", given))


def _become(spoiled: FaultGraph, output: str, op: str, *inputs: str) -> None:
    node = spoiled.maker(output)
    assert node is not None
    node.op_type = op
    node.input[:] = inputs
    del node.attribute[:]
