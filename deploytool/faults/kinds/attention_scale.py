"""Fault: the scores of an attention have another scale: none, that of the model's width, or one too many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deploytool.faults.kinds import attention
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Three faults for every attention, wherever its scale is: before the product, after it or within the weights."""
    candidates = []
    for found in attention.find(graph):
        if found.width > 1:
            factors = {float(np.sqrt(found.width)), 1 / float(np.sqrt(found.width))}
            factors |= {1 / float(np.sqrt(found.heads))} if found.heads > 1 else set()
            candidates += [_fault(found.scores, factor) for factor in sorted(factors)]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _fault(scores: str, factor: float) -> Fault:
    return Fault(scores, lambda faulty: faulty.insert(scores, "Mul", np.array(factor, np.float32)), factor)
