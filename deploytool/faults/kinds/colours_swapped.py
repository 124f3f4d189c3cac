"""Fault: the colour channels come in another order, such as BGR instead of RGB."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_ORDERS = ((2, 1, 0), (1, 0, 2), (1, 2, 0))


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every image input and every wrong order."""
    for name in graph.images():
        for order in rng.permutation(_ORDERS):
            yield _fault(name, order.tolist())


def _fault(name: str, order: list[int]) -> Fault:
    return Fault(f"{name} {order}", lambda faulty: faulty.insert(name, "Gather", np.array(order), axis=1))
