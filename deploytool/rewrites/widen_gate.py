"""Spreads a gate, one number for each channel, over the whole picture before the picture is multiplied with it.

A Mul of (batch, channels, height, width) with (batch, channels, 1, 1) takes the one number of a channel at every place.
Resize to the nearest value, by whole factors from a side of one, puts that number at every place: the products are the
same. ONNX Runtime leaves its blocked layout for a Mul that repeats one side, and stays in it for two of one shape.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph.channel_partition import BLOCK
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.shapes import Shape

_SINCE = 13  # opset: from there on Resize may be left without a region


def apply(draft: EditableGraph) -> Outcome:
    """Widens the gate of every Mul of pictures whose channels fill whole blocks."""
    if max(each.version for each in draft.model.opset_import if each.domain in ("", "ai.onnx")) < _SINCE:
        return Outcome((), (f"its opset is older than {_SINCE}",))
    old, new, passed = list[NodeProto](), list[NodeProto](), list[str]()
    for node in [each for each in draft.nodes if each.op_type == "Mul"]:
        shapes = [draft.shape(tensor) for tensor in node.input]
        gates = [place for place, shape in enumerate(shapes) if shape is not None and shape[2:] == (1, 1)]
        if len(gates) == 1 and all(draft.maker(tensor) for tensor in node.input):
            why = _unlike(shapes)
            if why:
                passed.append(f"{node.name}: {why}")
            else:
                old.append(node)
                new += _widened(draft, node, gates[0], shapes[1 - gates[0]] or ())
    if old:
        draft.replace(old, new)
    fired = tuple(node.name for node in new if node.op_type == "Resize")
    return Outcome(fired, tuple(passed) if fired or passed else ("no Mul has a gate",))


def _unlike(shapes: list[Shape | None]) -> str:
    """Why a gate stays as it is; nothing if it is to be widened."""
    if any(shape is None or len(shape) != 4 or None in shape[1:] for shape in shapes):
        return "the size of the picture is not known"
    widths = {shape[1] for shape in shapes if shape}
    if len(widths) > 1 or any((width or 0) % BLOCK for width in widths):
        return f"its channels do not fill blocks of {BLOCK}"
    return ""


def _widened(draft: EditableGraph, node: NodeProto, place: int, picture: Shape) -> list[NodeProto]:
    """The Resize that makes the wide gate, and the Mul with it."""
    scales = draft.weight(f"{node.name}/scales", np.array([1, 1, *picture[2:]], np.float32))
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    wide = draft.node("Resize", node, [node.input[place], "", scales], **settings)
    reads = [wide.output[0] if at == place else tensor for at, tensor in enumerate(node.input)]
    return [wide, draft.node("Mul", node, reads, node.output[0])]
