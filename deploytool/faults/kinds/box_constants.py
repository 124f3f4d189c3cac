"""Fault: boxes are decoded with another stride, grid or anchor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import boxes
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, Weight

_HALF_A_CELL = 0.5


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """The faults of every constant between the last layers and boxes."""
    candidates = [fault for node, name in boxes.constants(graph) for fault in _of(node, name, graph.weight(name))]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _of(node: onnx.NodeProto, name: str, values: Weight) -> list[Fault]:
    """A factor is doubled, several factors change places; an offset is left out, a grid shifted by half a cell."""
    if node.op_type in ("Mul", "Div"):
        found = [_fault(node, name, "doubled", values, values * 2)]
        axis = next((axis for axis, size in enumerate(values.shape) if size > 1), None)
        if axis is not None:
            found.append(_fault(node, name, "in another order", values, np.flip(values, axis)))
        return found
    if values.size == 1:
        return [_fault(node, name, "left out", values, values * 0)]
    steps = np.diff(np.unique(values))
    cell = float(steps.min()) if steps.size else 0.0
    shifted = _fault(node, name, "shifted by half a cell", values, values + _HALF_A_CELL * cell)
    return [shifted, _fault(node, name, "x and y swapped", values, _swapped(values))]


def _swapped(values: Weight) -> Weight:
    """The values in reverse order along the axis of x and y: the first of size two, else the last."""
    axis = next((axis for axis, size in enumerate(values.shape) if size == 2), -1)
    return np.flip(values, axis)


def _fault(node: onnx.NodeProto, name: str, change: str, values: Weight, other: Weight) -> Fault:
    output = node.output[0]

    def plant(faulty: FaultGraph) -> None:
        changed = faulty.producer(output)
        assert changed is not None
        faulty.put(f"{output}/constant", other)
        changed.input[:] = [f"{output}/constant" if each == name else each for each in changed.input]

    same = "the constant is the same" if np.array_equal(values, other) else None
    return Fault(f"{output}, {change}", plant, same=same)
