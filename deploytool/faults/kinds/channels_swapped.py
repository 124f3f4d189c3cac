"""Fault: two channels are swapped, as by a permutation that is missing or written for another layout."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, Weight, output_axis


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Endless: swaps the filters and biases of two random channels of a random layer."""
    layers = [node for node in graph.layers() if graph.weight(node.input[1]).shape[output_axis(node)] > 1]
    while layers:
        node = layers[rng.integers(len(layers))]
        count = graph.weight(node.input[1]).shape[output_axis(node)]
        yield _fault(graph, node, *(int(channel) for channel in rng.choice(count, 2, replace=False)))


def _fault(graph: FaultGraph, node: onnx.NodeProto, first: int, second: int) -> Fault:
    axes = dict(zip(node.input[1:], (output_axis(node), 0), strict=False))
    axes = {name: axis for name, axis in axes.items() if graph.has_weight(name)}
    swapped = {name: _swapped(graph.weight(name), axis, first, second) for name, axis in axes.items()}
    equal = all(np.array_equal(graph.weight(name), values) for name, values in swapped.items())

    def plant(faulty: FaultGraph) -> None:
        for name, values in swapped.items():
            faulty.put(name, values)

    same = "both channels have the same weights" if equal else None
    return Fault(f"{node.output[0]}, channels {first} and {second}", plant, same=same)


def _swapped(values: Weight, axis: int, first: int, second: int) -> Weight:
    order = np.arange(values.shape[axis])
    order[[first, second]] = order[[second, first]]
    return values.take(order, axis)
