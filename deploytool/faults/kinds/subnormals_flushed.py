"""Fault: small weights are flushed to zero: FP16's subnormals, as on hardware without them, or more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, Weight
from deploytool.host import fp16_rounding

_LIMITS = tuple(factor * fp16_rounding.SMALLEST_NORMAL for factor in (1, 4, 16, 64))


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for each limit below which all weights become zero."""
    for limit in rng.permutation(_LIMITS):
        yield _fault(graph, float(limit))


def _fault(graph: FaultGraph, limit: float) -> Fault:
    small = {name: values for name in graph.weights() if _any_below(values := graph.weight(name), limit)}

    def plant(faulty: FaultGraph) -> None:
        for name, values in small.items():
            faulty.put(name, np.where(np.abs(values) < limit, 0, values))

    return Fault(f"weights below {limit:.1e}", plant, limit, None if small else "no weight is that small")


def _any_below(values: Weight, limit: float) -> bool:
    return bool(((values != 0) & (np.abs(values) < limit)).any())
