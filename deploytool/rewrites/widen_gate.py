"""Expands a gate (one number a channel, as in squeeze-and-excitation) to the size of the feature map it multiplies.

A Mul of (batch, channels, height, width) with (batch, channels, 1, 1) uses one number a channel for all pixels. A
nearest-neighbour Resize by integer factors copies that number to every pixel, so the products are equal. ONNX Runtime
leaves its blocked layout for a Mul with broadcasting, and keeps it for operands of one shape.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph.channel_partition import BLOCK
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.shapes import Shape

_MIN_OPSET = 13  # from which on Resize does not need the input `roi`


def apply(graph: EditableGraph) -> Outcome:
    """Expands the gate of every Mul whose channels fill whole blocks."""
    if max(opset.version for opset in graph.model.opset_import if opset.domain in ("", "ai.onnx")) < _MIN_OPSET:
        return Outcome((), (f"its opset is older than {_MIN_OPSET}",))
    old, new, skipped = list[NodeProto](), list[NodeProto](), list[str]()
    for node in [node for node in graph.nodes if node.op_type == "Mul"]:
        shapes = [graph.shape(tensor) for tensor in node.input]
        gates = [index for index, shape in enumerate(shapes) if shape is not None and shape[2:] == (1, 1)]
        if len(gates) == 1 and all(graph.producer(tensor) for tensor in node.input):
            reason = _skip_reason(shapes)
            if reason:
                skipped.append(f"{node.name}: {reason}")
            else:
                old.append(node)
                new += _expand(graph, node, gates[0], shapes[1 - gates[0]] or ())
    if old:
        graph.replace(old, new)
    applied = tuple(node.name for node in new if node.op_type == "Resize")
    return Outcome(applied, tuple(skipped) if applied or skipped else ("no Mul has a gate",))


def _skip_reason(shapes: list[Shape | None]) -> str:
    """Why the gate of a Mul stays as it is; empty if it is expanded."""
    if any(shape is None or len(shape) != 4 or None in shape[1:] for shape in shapes):
        return "the size of the feature map is unknown"
    widths = {shape[1] for shape in shapes if shape}
    if len(widths) > 1 or any((width or 0) % BLOCK for width in widths):
        return f"its channels do not fill blocks of {BLOCK}"
    return ""


def _expand(graph: EditableGraph, node: NodeProto, gate: int, shape: Shape) -> list[NodeProto]:
    """The Resize that expands input number `gate` of a Mul to `shape`, and the Mul of the expanded gate."""
    scales = graph.add_weight(f"{node.name}/scales", np.array([1, 1, *shape[2:]], np.float32))
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    resize = graph.make_node("Resize", node, [node.input[gate], "", scales], **settings)
    inputs = [resize.output[0] if index == gate else tensor for index, tensor in enumerate(node.input)]
    return [resize, graph.make_node("Mul", node, inputs, node.output[0])]
