"""Fault: boxes have another format: corners for centre and sides or the reverse, or x and y swapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import helper

from deploytool.faults.kinds import boxes
from deploytool.faults.kinds.boxes import Pair
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, Weight

_TO_CORNERS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32)
_X_AND_Y_SWAPPED = np.eye(4, dtype=np.float32)[[1, 0, 3, 2]]


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Two faults for all boxes, and two for every output of four numbers a place."""
    found = boxes.pairs(graph)
    candidates = [_for_all(found, "format", _other_format), _for_all(found, "x and y", _swap_axes)] if found else []
    for output in boxes.outputs(graph):
        candidates += [_multiplied(output, "corners", _TO_CORNERS), _multiplied(output, "x and y", _X_AND_Y_SWAPPED)]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _for_all(found: list[Pair], what: str, change: Callable[[FaultGraph, Pair], None]) -> Fault:
    def plant(faulty: FaultGraph) -> None:
        for pair in found:
            change(faulty, pair)

    return Fault(f"{what} of {', '.join(pair.output for pair in found)}", plant)


def _other_format(faulty: FaultGraph, pair: Pair) -> None:
    """Corners become centre and sides; anything else is taken for centre and sides, and becomes corners."""
    if pair.centre:
        faulty.replace(pair.first, "Identity", pair.centre)
        faulty.replace(pair.second, "Add", pair.half, pair.half)
        return
    half, first, second = (f"{pair.output}/{name}" for name in ("half", "first", "second"))
    nodes = [
        helper.make_node("Mul", [pair.second, faulty.put_scalar(f"{pair.output}/factor", 0.5)], [half]),
        helper.make_node("Sub", [pair.first, half], [first]),
        helper.make_node("Add", [pair.first, half], [second]),
    ]
    _rejoin(faulty, pair, nodes, first, second)


def _swap_axes(faulty: FaultGraph, pair: Pair) -> None:
    first, second, order = (f"{pair.output}/{name}" for name in ("first", "second", "order"))
    faulty.put(order, np.array([1, 0]))
    gathers = [
        helper.make_node("Gather", [source, order], [swapped], axis=pair.axis)
        for source, swapped in ((pair.first, first), (pair.second, second))
    ]
    _rejoin(faulty, pair, gathers, first, second)


def _rejoin(faulty: FaultGraph, pair: Pair, nodes: list[onnx.NodeProto], first: str, second: str) -> None:
    faulty.add_before(pair.output, nodes)
    concat = faulty.producer(pair.output)
    assert concat is not None
    concat.input[:2] = [first, second]


def _multiplied(output: str, what: str, matrix: Weight) -> Fault:
    return Fault(f"{output}, {what}", lambda faulty: faulty.append(output, "MatMul", matrix))
