"""Fault: images are normalised with another mean or standard deviation, or not at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OTHERS = (_IMAGENET, ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3))
_SHIFTS = (1e-3, 1e-2, 1e-1)  # of the mean

Floats = npt.NDArray[np.float64]


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """For every image input: other common normalisations, and the correct one with a shifted mean."""
    mean, std = (np.broadcast_to(values, 3) for values in (graph.preprocessing.mean, graph.preprocessing.std))
    candidates = []
    for name in graph.images():
        candidates += [_fault(name, mean, std, np.array(other), np.array(spread), None) for other, spread in _OTHERS]
        candidates += [_fault(name, mean, std, mean + shift, std, shift) for shift in _SHIFTS]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _fault(name: str, mean: Floats, std: Floats, other: Floats, spread: Floats, shift: float | None) -> Fault:
    factor, offset = std / spread, (mean - other) / spread
    sides = (1, 3, 1, 1)

    def plant(faulty: FaultGraph) -> None:
        faulty.insert(name, "Add", offset.reshape(sides).astype(np.float32))
        faulty.insert(name, "Mul", factor.reshape(sides).astype(np.float32))

    same = "it is the model's normalisation" if np.array_equal(mean, other) and np.array_equal(std, spread) else None
    return Fault(f"{name}, mean {other.round(3).tolist()}, std {spread.round(3).tolist()}", plant, shift, same)
