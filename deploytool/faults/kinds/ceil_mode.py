"""Fault: a pool rounds its output size the other way; `ceil_mode` is inverted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every pool in the graph."""
    candidates = [_fault(node, graph.shapes) for node in graph.nodes("MaxPool", "AveragePool")]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _fault(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> Fault:
    output, ceil_mode = node.output[0], attribute(node, "ceil_mode")
    ceil = bool(ceil_mode and ceil_mode.i)

    def plant(faulty: FaultGraph) -> None:
        flipped = faulty.producer(output)
        assert flipped is not None
        set_attribute(flipped, "ceil_mode", int(not ceil))

    return Fault(output, plant, same="the windows fit exactly" if _fits(node, shapes.get(node.input[0], [])) else None)


def _fits(node: onnx.NodeProto, sides: list[int]) -> bool:
    """Whether the last window ends where the padded input does."""
    attributes = {value.name: list(value.ints) for value in node.attribute}
    count = len(attributes["kernel_shape"])
    strides, pads = attributes.get("strides", [1] * count), attributes.get("pads", [0] * 2 * count)
    dilations = attributes.get("dilations", [1] * count)
    if len(sides) != count + 2 or not all(sides[2:]):
        return False
    kernel = attributes["kernel_shape"]
    axes = zip(sides[2:], kernel, dilations, strides, pads[:count], pads[count:], strict=True)
    return all(
        (side + before + after - dilation * (size - 1) - 1) % stride == 0
        for side, size, dilation, stride, before, after in axes
    )
