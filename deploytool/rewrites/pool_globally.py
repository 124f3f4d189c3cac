"""Replaces a ReduceMean over height and width by GlobalAveragePool.

ReduceMean over height and width of (batch, channels, height, width) is the sum over all pixels divided by their number,
which defines GlobalAveragePool. With keepdims=0, a Flatten removes the two dimensions of size one.

ONNX Runtime sums the pixels of a GlobalAveragePool in one sequence where channels fill its blocks, and those of a
ReduceMean in several partial sums. For equal numbers, 1,024 pixels agree within 1e-6 either way; for 4,096 pixels the
error is 4e-5, against 6e-6 of ReduceMean. So means over more than 1,024 pixels stay as they are.
"""

from __future__ import annotations

import math

from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph.editable import EditableGraph, attributes

_MAX_PIXELS = 1024  # in one sequential sum


def apply(graph: EditableGraph) -> Outcome:
    """Replaces every ReduceMean over height and width of a four-dimensional tensor."""
    applied, skipped = [], []
    for node in [node for node in graph.nodes if node.op_type == "ReduceMean"]:
        reason = _skip_reason(graph, node)
        if reason:
            skipped.append(f"{node.name}: {reason}")
            continue
        keepdims = attributes(node).get("keepdims", 1)
        pool = graph.make_node("GlobalAveragePool", node, [node.input[0]], node.output[0] if keepdims else "")
        flatten = [] if keepdims else [graph.make_node("Flatten", node, [pool.output[0]], node.output[0], axis=1)]
        graph.replace([node], [pool, *flatten])
        applied.append(pool.name)
    return Outcome(tuple(applied), tuple(skipped) if applied or skipped else ("no ReduceMean is left",))


def _skip_reason(graph: EditableGraph, node: NodeProto) -> str:
    """Why a ReduceMean is not replaced; empty if it is."""
    shape = graph.shape(node.input[0])
    if shape is None or len(shape) != 4:
        return "its input is not known to have four dimensions"
    axes_input = graph.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    axes = attributes(node).get("axes", axes_input)
    if axes is None or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        return "it is not over height and width alone"
    if math.prod(size or 1 for size in shape[2:]) > _MAX_PIXELS:
        return f"it sums more than {_MAX_PIXELS} numbers, which GlobalAveragePool sums less accurately"
    return ""
