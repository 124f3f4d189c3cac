"""Fault: an attention has no mask, as where a mask is an optional input: each token sees padding and later tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from deploytool.faults.kinds import attention
from deploytool.faults.kinds.attention import Mask
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph


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
            faulty.replace(mask.step.output, "Identity", mask.step.source)

    return Fault(place, plant)
