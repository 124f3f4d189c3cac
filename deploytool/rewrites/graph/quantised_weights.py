"""The integers of weights in a graph with Q/DQ nodes, and what their scales and zero points apply to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.rewrites.graph.editable import EditableGraph, attributes

Array = npt.NDArray[Any]


def codes(graph: EditableGraph, tensor: str) -> Array | None:
    """The integers of a weight, stored or quantised by a node; None for a tensor that depends on the inputs."""
    stored = graph.constant(tensor)
    return _quantised(graph, tensor) if stored is None else stored


def _quantised(graph: EditableGraph, tensor: str) -> Array | None:
    """The integers of a weight that a node of the graph quantises."""
    node = graph.producer(tensor)
    if node is None or node.op_type != "QuantizeLinear" or len(node.input) < 3:
        return None
    source, scale, zero = (graph.constant(name) for name in node.input[:3])
    if source is None or scale is None or zero is None or scale.ndim > 1:
        return None
    axis, ends = int(attributes(node).get("axis", 1)), np.iinfo(zero.dtype)
    whole = np.rint(source / along(scale, axis, source.ndim))
    rounded: Array = np.clip(whole + along(zero, axis, source.ndim), ends.min, ends.max).astype(zero.dtype)
    return rounded


def along(parameter: Array, axis: int, rank: int) -> Array:
    """A scale or zero point in a shape that broadcasts with a tensor of this rank."""
    if parameter.size == 1:
        return parameter.reshape(())
    return parameter.reshape([-1 if dim == axis % rank else 1 for dim in range(rank)])
