"""Fault: a channel is lost; the filter and the bias of one output channel are zero or reduced."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, output_axis

_PARTS = (0.03, 0.1, 0.3, 1.0)  # by which the channel is reduced


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Endless: reduces a random channel of a random layer by a part, or sets it to zero."""
    layers = graph.layers()
    while layers:
        node = layers[rng.integers(len(layers))]
        count = graph.weight(node.input[1]).shape[output_axis(node)]
        yield _fault(graph, node, int(rng.integers(count)), float(rng.choice(_PARTS)))


def _fault(graph: FaultGraph, node: onnx.NodeProto, channel: int, part: float) -> Fault:
    axes = dict(zip(node.input[1:], (output_axis(node), 0), strict=False))
    axes = {name: axis for name, axis in axes.items() if graph.has_weight(name)}

    def plant(faulty: FaultGraph) -> None:
        for name, axis in axes.items():
            values = np.moveaxis(graph.weight(name).copy(), axis, 0)
            values[channel] *= 1 - part
            faulty.put(name, np.moveaxis(values, 0, axis))

    return Fault(f"{node.output[0]}, channel {channel}", plant, part, _dead(graph, node, axes, channel))


def _dead(graph: FaultGraph, node: onnx.NodeProto, axes: dict[str, int], channel: int) -> str | None:
    weights = [np.moveaxis(graph.weight(name), axis, 0)[channel] for name, axis in axes.items()]
    if all((values == 0).all() for values in weights):
        return "the channel is zero"
    consumers = graph.consumers(node.output[0])
    rectified = bool(consumers) and all(consumer.op_type == "Relu" for consumer in consumers)
    if rectified and graph.never_negative(node.input[0]) and all((values <= 0).all() for values in weights):
        return "the channel is never positive before a ReLU"
    return None
