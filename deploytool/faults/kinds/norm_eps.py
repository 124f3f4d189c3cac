"""Fault: a batch norm has another epsilon, such as TensorFlow's 1e-3 instead of 1e-5."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, Weight, attribute

_EPSILONS = (1e-3, 1e-2, 1e-1)
_USUAL = 1e-5
_CLOSE = 4e-3  # relative difference up to which a folded bias matches, including FP16 rounding


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every epsilon and every batch norm, whether in the graph or folded into a convolution."""
    candidates = [_separate(node, eps) for node in graph.nodes("BatchNormalization") for eps in _EPSILONS]
    for node in graph.nodes("Conv"):
        scale = _folded(graph, node)
        candidates += [_fault(graph, node, *scale, eps) for eps in _EPSILONS] if scale else []
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _separate(node: onnx.NodeProto, eps: float) -> Fault:
    output = node.output[0]

    def plant(faulty: FaultGraph) -> None:
        norm = faulty.producer(output)
        assert norm is not None
        others = [value for value in norm.attribute if value.name != "epsilon"]
        del norm.attribute[:]
        norm.attribute.extend([*others, onnx.helper.make_attribute("epsilon", eps)])

    current = attribute(node, "epsilon")
    same = "the epsilon is equal" if current is not None and current.f == np.float32(eps) else None
    return Fault(output, plant, eps, same)


def _folded(graph: FaultGraph, node: onnx.NodeProto) -> tuple[Weight, Weight, Weight] | None:
    """Variance, offset and factor of the batch norm folded into a convolution, identified by its bias."""
    if len(node.input) < 3 or not all(graph.has_weight(name) for name in node.input[1:]):
        return None
    bias = graph.weight(node.input[2]).astype(np.float64)
    within = _CLOSE * float(np.abs(bias).max())
    for name, variance in graph.state.items():
        path, _, last = name.rpartition(".")
        if last != "running_var" or len(variance) != len(bias):
            continue
        scale, offset, mean = (graph.state[f"{path}.{key}"] for key in ("weight", "bias", "running_mean"))
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

    def plant(faulty: FaultGraph) -> None:
        faulty.put(weight, graph.weight(weight) * ratio.reshape(sides))
        faulty.put(bias, offset + (graph.weight(bias) - offset) * ratio)

    return Fault(node.output[0], plant, eps)
