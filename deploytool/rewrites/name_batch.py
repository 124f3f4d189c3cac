"""Calls the batch by its name in the shape of every tensor, so that a runtime sees which shapes are the same.

A Reshape to (-1, ...) makes a side that shape inference has no name for, and so has whatever comes after it. ONNX
Runtime computes a residual Add and its activation within the convolution before it only where it knows that both of the
added tensors have one shape, else in passes of their own. No value changes: the graph only says what it does
(see `shapes.with_batch`).
"""

from __future__ import annotations

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import shapes
from deploytool.rewrites.graph.editable import EditableGraph


def apply(draft: EditableGraph) -> Outcome:
    """Writes down every shape in which inference does not recognise the batch."""
    found = shapes.with_batch(draft.model)
    if found is None:
        return Outcome((), ("other sizes than the batch are free, or none is",))
    draft.describe(found.values())
    fired = tuple(node.name for node in draft.nodes if not found.keys().isdisjoint(node.output))
    return Outcome(fired, () if fired else ("the batch has its name everywhere",))
