"""Fault: a layer norm, RMS norm, group norm or instance norm has another epsilon, such as 1e-5 for 1e-12."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute

_EPSILONS = (1e-12, 1e-6, 1e-5, 1e-3, 1e-2)
_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "GroupNormalization")
_DEFAULT = 1e-5
_LARGEST = 0.011  # a larger addend is no epsilon


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every other epsilon and every norm, whether an operator or arithmetic."""
    norms = graph.nodes(*_NORMS, "InstanceNormalization")
    candidates = [_of_operator(node, eps) for node in norms for eps in _EPSILONS]
    for node in graph.nodes("Add"):
        candidates += [_of_sum(graph, node, name, eps) for name in _epsilon(graph, node) for eps in _EPSILONS]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _of_operator(node: onnx.NodeProto, eps: float) -> Fault:
    output, current = node.output[0], attribute(node, "epsilon")

    def plant(faulty: FaultGraph) -> None:
        norm = faulty.producer(output)
        assert norm is not None
        set_attribute(norm, "epsilon", eps)

    return Fault(output, plant, eps, _same(current.f if current else _DEFAULT, eps))


def _epsilon(graph: FaultGraph, node: onnx.NodeProto) -> list[str]:
    """The epsilon that an addition adds to a mean, before a square root or a negative power."""
    readers = {reader.op_type for reader in graph.consumers(node.output[0])}
    producers = {producer.op_type for name in node.input if (producer := graph.producer(name)) is not None}
    if not producers & {"ReduceMean", "ReduceSum", "GlobalAveragePool", "Cast"} or not readers & {"Sqrt", "Pow"}:
        return []
    weights = [name for name in node.input if graph.has_weight(name) and graph.weight(name).size == 1]
    return [name for name in weights if 0 <= float(graph.weight(name).item()) <= _LARGEST]


def _of_sum(graph: FaultGraph, node: onnx.NodeProto, name: str, eps: float) -> Fault:
    output, values = node.output[0], graph.weight(name)

    def plant(faulty: FaultGraph) -> None:
        added, other = faulty.producer(output), f"{output}/epsilon"
        assert added is not None
        faulty.put(other, np.full_like(values, eps))
        added.input[:] = [other if each == name else each for each in added.input]

    return Fault(output, plant, eps, _same(float(values.item()), eps))


def _same(current: float, eps: float) -> str | None:
    return "the epsilon is equal" if np.isclose(current, eps, rtol=1e-3, atol=0) else None
