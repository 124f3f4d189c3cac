"""A pool rounds its size the other way: `ceil_mode` is flipped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """One fault for every pool."""
    shapes = _shapes(graph.model)
    found = [_fault(node, shapes) for node in graph.nodes("MaxPool", "AveragePool")]
    yield from rng.permutation(np.array(found, object)) if found else ()


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The sizes of the tensors, 0 where they are free."""
    typed = onnx.shape_inference.infer_shapes(model).graph
    values = (*typed.value_info, *typed.input, *typed.output)
    return {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in values}


def _fault(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> Fault:
    output, held = node.output[0], attribute(node, "ceil_mode")
    ceil = bool(held and held.i)

    def plant(spoiled: FaultGraph) -> None:
        flipped = spoiled.maker(output)
        assert flipped is not None
        set_attribute(flipped, "ceil_mode", int(not ceil))

    return Fault(output, plant, same="the windows fit exactly" if _fits(node, shapes.get(node.input[0], [])) else None)


def _fits(node: onnx.NodeProto, sides: list[int]) -> bool:
    """Whether the last window ends where the padded input does."""
    given = {each.name: list(each.ints) for each in node.attribute}
    count = len(given["kernel_shape"])
    strides, pads = given.get("strides", [1] * count), given.get("pads", [0] * 2 * count)
    spread = given.get("dilations", [1] * count)
    if len(sides) != count + 2 or not all(sides[2:]):
        return False
    windows = zip(sides[2:], given["kernel_shape"], spread, strides, pads[:count], pads[count:], strict=True)
    return all((side + a + b - step * (kernel - 1) - 1) % stride == 0 for side, kernel, step, stride, a, b in windows)
