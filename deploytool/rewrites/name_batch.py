"""Writes the name of the batch dimension into the shape of every tensor, so that a runtime sees which shapes are equal.

A Reshape to (-1, ...) produces a dimension that shape inference cannot name, and so do the nodes after it. ONNX Runtime
fuses a residual Add and its activation into the convolution before it only if it knows that both operands have the same
shape, and runs separate nodes otherwise. No value changes: the graph gains only shape annotations (see
`shapes.batch_shapes`).
"""

from __future__ import annotations

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import shapes
from deploytool.rewrites.graph.editable import EditableGraph


def apply(graph: EditableGraph) -> Outcome:
    """Annotates every tensor in whose shape inference does not recognise the batch."""
    annotations = shapes.batch_shapes(graph.model)
    if annotations is None:
        return Outcome((), ("the batch is not the only dynamic dimension",))
    graph.add_shapes(annotations.values())
    applied = tuple(node.name for node in graph.nodes if not annotations.keys().isdisjoint(node.output))
    return Outcome(applied, () if applied else ("the batch has its name everywhere",))
