"""Fault: the weights are stale, as from an earlier or later training step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_STEPS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # how far the weights have moved, relative to their root mean square


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Endless: moves all weights of all layers by a random step."""
    names = [node.input[1] for node in graph.layers()]
    while names:
        yield _fault(graph, names, float(rng.choice(_STEPS)), int(rng.integers(1 << 31)))


def _fault(graph: FaultGraph, names: list[str], step: float, seed: int) -> Fault:
    def plant(faulty: FaultGraph) -> None:
        drawn = np.random.default_rng(seed)
        for name in names:
            values = graph.weight(name).astype(np.float64)
            faulty.put(name, values + step * np.sqrt((values**2).mean()) * drawn.standard_normal(values.shape))

    return Fault(f"all weights (draw {seed})", plant, step)
