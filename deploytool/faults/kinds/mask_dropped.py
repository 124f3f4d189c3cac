"""Fault: an attention has no mask, as where a mask is an optional input: each token sees padding and later tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from deploytool.faults.kinds import attention
from deploytool.faults.kinds.attention import Mask
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute

_MASK = 3  # the input of the operator for attention that is its mask


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for the mask of every attention, and one for all masks."""
    masks = attention.masks(graph)
    candidates = [_fault(mask.step.output, [mask]) for mask in masks]
    if len(masks) > 1:
        candidates.append(_fault("all masks", masks))
    candidates += [_of_operator(node) for node in graph.nodes("Attention") if _is_masked(node)]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _fault(place: str, masks: Sequence[Mask]) -> Fault:
    def plant(faulty: FaultGraph) -> None:
        for mask in masks:
            faulty.replace(mask.step.output, "Identity", mask.step.source)

    return Fault(place, plant)


def _is_masked(node: onnx.NodeProto) -> bool:
    causal = attribute(node, "is_causal")
    return (len(node.input) > _MASK and bool(node.input[_MASK])) or (causal is not None and bool(causal.i))


def _of_operator(node: onnx.NodeProto) -> Fault:
    output = node.output[0]

    def plant(faulty: FaultGraph) -> None:
        changed = faulty.producer(output)
        assert changed is not None
        set_attribute(changed, "is_causal", 0)
        if len(changed.input) > _MASK:
            changed.input[_MASK] = ""

    return Fault(output, plant)
