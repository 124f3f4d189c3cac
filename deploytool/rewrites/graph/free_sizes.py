"""The sizes of a graph's inputs that are free: a session can hide that one was fixed, as it fills up its batches."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from deploytool.spec import Tensor

Place = tuple[str, int]  # the name of an input, and one of its axes


def free(graph: onnx.GraphProto) -> set[Place]:
    """Every axis of an input whose size is no number."""
    return {
        (given.name, axis)
        for given in graph.input
        for axis, size in enumerate(given.type.tensor_type.shape.dim)
        if not size.HasField("dim_value")
    }


def wanted(inputs: Iterable[Tensor]) -> set[Place]:
    """Every axis of these inputs whose size is free."""
    return {(tensor.name, axis) for tensor in inputs for axis in tensor.free()}


def fixed(expected: set[Place], graph: onnx.GraphProto) -> str | None:
    """What a graph has fixed of the sizes that should be free, in words; None if it has fixed nothing."""
    there = {given.name for given in graph.input}
    lost = sorted(place for place in expected - free(graph) if place[0] in there)
    return f"the size {lost[0][1]} of {lost[0][0]} was fixed" if lost else None
