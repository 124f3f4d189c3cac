"""Fault: the scores of an attention have another scale: none, that of the model's width, or one too many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import attention
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Three faults for every attention, wherever its scale is: before the product, after it or within the weights."""
    candidates = []
    for found in attention.find(graph):
        candidates += [_fault(found.scores, factor) for factor in _factors(found.width, found.heads)]
    for node in graph.nodes("Attention"):
        width, heads = _sides(graph, node)
        candidates += [_of_operator(node, width, factor) for factor in _factors(width, heads)]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _factors(width: int, heads: int) -> list[float]:
    """No scale, a second one, and for several heads that of the model's width, as factors of the scores."""
    if width < 2:  # a head of one number has no scale
        return []
    return sorted({width**0.5, width**-0.5} | ({heads**-0.5} if heads > 1 else set()))


def _sides(graph: FaultGraph, node: onnx.NodeProto) -> tuple[int, int]:
    """The width and the number of the heads of an operator for attention; 0 where unknown."""
    shape, heads = graph.shapes.get(node.input[0], []), attribute(node, "q_num_heads")
    if heads is not None and len(shape) == 3:
        return shape[-1] // heads.i, heads.i
    return (shape[-1], shape[1]) if len(shape) == 4 else (0, 0)


def _fault(scores: str, factor: float) -> Fault:
    return Fault(scores, lambda faulty: faulty.insert(scores, "Mul", np.array(factor, np.float32)), factor)


def _of_operator(node: onnx.NodeProto, width: int, factor: float) -> Fault:
    output, scale = node.output[0], attribute(node, "scale")
    current = scale.f if scale is not None else width**-0.5

    def plant(faulty: FaultGraph) -> None:
        changed = faulty.producer(output)
        assert changed is not None
        set_attribute(changed, "scale", current * factor)

    return Fault(output, plant, factor)
