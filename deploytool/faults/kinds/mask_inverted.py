"""Fault: an attention mask is inverted: the hidden keys are visible, and the visible ones hidden."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import helper

from deploytool.faults.kinds import attention
from deploytool.faults.kinds.attention import HIDDEN, Mask
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_LOWEST = -6e4  # what hides a key; FP16 has it


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for the mask of every attention, and one for all masks."""
    masks = attention.masks(graph)
    candidates = [_fault(mask.step.output, [mask]) for mask in masks]
    if len(masks) > 1:
        candidates.append(_fault("all masks", masks))
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _fault(place: str, masks: Sequence[Mask]) -> Fault:
    def plant(faulty: FaultGraph) -> None:
        for mask in masks:
            _invert(faulty, mask)

    return Fault(place, plant)


def _invert(faulty: FaultGraph, mask: Mask) -> None:
    output = mask.step.output
    node = faulty.producer(output)
    assert node is not None
    if not mask.added:
        condition, chosen, other = node.input
        node.input[:] = [condition, other, chosen]
        return
    limit, zero, lowest = (
        faulty.put_scalar(f"{output}/{name}", value)
        for name, value in (("limit", HIDDEN), ("zero", 0.0), ("lowest", _LOWEST))
    )
    hidden, inverted = f"{output}/hidden", f"{output}/inverted"
    faulty.add_before(
        output,
        [
            helper.make_node("Less", [mask.added, limit], [hidden]),
            helper.make_node("Where", [hidden, zero, lowest], [inverted]),
        ],
    )
    node.input[:] = [inverted if name == mask.added else name for name in node.input]
