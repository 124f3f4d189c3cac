"""Finds the dynamic axes of a graph's inputs.

Running a graph does not show that a dynamic axis became fixed, because a session pads its batches.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from deploytool.spec import Tensor

Axis = tuple[str, int]  # the name of an input and the index of one of its axes


def free_axes(graph: onnx.GraphProto) -> set[Axis]:
    """All dynamic axes of the graph's inputs."""
    return {
        (value.name, axis)
        for value in graph.input
        for axis, size in enumerate(value.type.tensor_type.shape.dim)
        if not size.HasField("dim_value")
    }


def declared_free_axes(inputs: Iterable[Tensor]) -> set[Axis]:
    """All axes that the specification of the inputs declares dynamic."""
    return {(tensor.name, axis) for tensor in inputs for axis in tensor.free_axes()}


def fixed_axis(expected: set[Axis], graph: onnx.GraphProto) -> str | None:
    """A message for the first axis that should be dynamic and is fixed in the graph; None if there is none."""
    names = {value.name for value in graph.input}
    fixed = sorted(axis for axis in expected - free_axes(graph) if axis[0] in names)
    return f"axis {fixed[0][1]} of {fixed[0][0]} became fixed" if fixed else None
