"""Writes a mean over all places of a picture as the global average pooling that it is.

ReduceMean over height and width of (batch, channels, height, width) is the sum over all places, divided by their
number: the definition of GlobalAveragePool. Without kept dimensions, a Flatten drops the two sides of one.

ONNX Runtime adds the places of a GlobalAveragePool one by one where channels fill its blocks, and those of a ReduceMean
in several sums side by side: of equal numbers, 1,024 end within 1e-6 either way, and 4,096 4e-5 from the truth, where
ReduceMean is off by 6e-6. So the means over more places stay as they are.
"""

from __future__ import annotations

import math

from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph.editable import EditableGraph, attributes

_MOST = 1024  # places to add one by one


def apply(draft: EditableGraph) -> Outcome:
    """Replaces every ReduceMean over height and width of a tensor of four dimensions."""
    fired, passed = [], []
    for node in [each for each in draft.nodes if each.op_type == "ReduceMean"]:
        why = _unlike(draft, node)
        if why:
            passed.append(f"{node.name}: {why}")
            continue
        keeps = attributes(node).get("keepdims", 1)
        pool = draft.node("GlobalAveragePool", node, [node.input[0]], node.output[0] if keeps else "")
        flat = [] if keeps else [draft.node("Flatten", node, [pool.output[0]], node.output[0], axis=1)]
        draft.replace([node], [pool, *flat])
        fired.append(pool.name)
    return Outcome(tuple(fired), tuple(passed) if fired or passed else ("no ReduceMean is left",))


def _unlike(draft: EditableGraph, node: NodeProto) -> str:
    """Why a ReduceMean is no global average pooling; nothing if it is."""
    shape = draft.shape(node.input[0])
    if shape is None or len(shape) != 4:
        return "it is not known to read four dimensions"
    given = draft.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    axes = attributes(node).get("axes", given)
    if axes is None or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        return "it is not over height and width alone"
    if math.prod(side or 1 for side in shape[2:]) > _MOST:
        return f"it adds more than {_MOST} numbers, which GlobalAveragePool would do one by one"
    return ""
