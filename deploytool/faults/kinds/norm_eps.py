"""A batch norm has another epsilon: TensorFlow's 1e-3, say, where the weights were trained with 1e-5."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph, Weight, attribute

_EPSILONS = (1e-3, 1e-2, 1e-1)
_USUAL = 1e-5
_CLOSE = 4e-3  # how well a folded filter must fit, FP16 being allowed for


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every batch norm and every epsilon: in the graph, or folded into the convolution before it."""
    found = [_standing(node, eps) for node in graph.nodes("BatchNormalization") for eps in _EPSILONS]
    for node in graph.nodes("Conv"):
        scale = _folded(graph, node)
        found += [_fault(graph, node, *scale, eps) for eps in _EPSILONS] if scale else []
    yield from rng.permutation(np.array(found, object)) if found else ()


def _standing(node: onnx.NodeProto, eps: float) -> Fault:
    output = node.output[0]

    def plant(spoiled: FaultGraph) -> None:
        norm = spoiled.maker(output)
        assert norm is not None
        kept = [each for each in norm.attribute if each.name != "epsilon"]
        del norm.attribute[:]
        norm.attribute.extend([*kept, onnx.helper.make_attribute("epsilon", eps)])

    held = attribute(node, "epsilon")
    same = "it has that epsilon" if held is not None and held.f == np.float32(eps) else None
    return Fault(output, plant, eps, same)


def _folded(graph: FaultGraph, node: onnx.NodeProto) -> tuple[Weight, Weight, Weight] | None:
    """Variance, offset and mean × scale of the batch norm that a convolution swallowed, found by their values."""
    if len(node.input) < 3 or not all(graph.has_weight(name) for name in node.input[1:]):
        return None
    bias = graph.weight(node.input[2]).astype(np.float64)
    within = _CLOSE * float(np.abs(bias).max())
    for name, variance in graph.state.items():
        path, _, last = name.rpartition(".")
        if last != "running_var" or len(variance) != len(bias):
            continue
        scale, offset, mean = (graph.state[f"{path}.{each}"] for each in ("weight", "bias", "running_mean"))
        factor = scale / np.sqrt(variance + _USUAL)
        if np.allclose(bias, offset - mean * factor, rtol=_CLOSE, atol=within):
            return variance, offset, factor
    return None


def _fault(
    graph: FaultGraph, node: onnx.NodeProto, variance: Weight, offset: Weight, factor: Weight, eps: float
) -> Fault:
    weight, bias = node.input[1:3]
    ratio = np.sqrt((variance + _USUAL) / (variance + eps)).astype(np.float64)
    sides = (-1, *[1] * (graph.weight(weight).ndim - 1))

    def plant(spoiled: FaultGraph) -> None:
        spoiled.put(weight, graph.weight(weight) * ratio.reshape(sides))
        spoiled.put(bias, offset + (graph.weight(bias) - offset) * ratio)

    return Fault(node.output[0], plant, eps)
