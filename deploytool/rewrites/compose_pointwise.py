"""Multiplies out two pointwise convolutions with an Add between them, where nobody else wants what comes in between.

E (P x + p + s) + e = (E P) x + E s + (E p + e): one convolution with weights (E, E P) that reads s and x laid side by
side. A compiler lets who makes s and x write them to their places, and launches one kernel instead of two. It
multiplies more, so it is for machines that wait for launches, and only where the product is small. A depthwise
convolution that reads s too would have to take it from among more channels, and would not do so without a copy.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution, dense
from deploytool.rewrites.graph.editable import EditableGraph

_SMALL = 100_000  # weights of the product


def apply(draft: EditableGraph) -> Outcome:
    """Composes the pointwise convolutions around every Add that only one of them reads."""
    fired, passed = [], []
    for add in [node for node in draft.nodes if node.op_type == "Add"]:
        last = _pointwise(draft, draft.only_reader(add.output[0]))
        firsts = [_pointwise(draft, draft.maker(tensor)) for tensor in add.input if draft.only_reader(tensor)]
        first = next((conv for conv in firsts if conv), None)
        if first and last:
            why = _unlike(draft, first, add, last)
            if why:
                passed.append(f"{add.name}: {why}")
            else:
                fired.append(_compose(draft, first, add, last))
    return Outcome(tuple(fired), tuple(passed) if fired or passed else ("no Add lies between pointwise convolutions",))


def _pointwise(draft: EditableGraph, node: NodeProto | None) -> Convolution | None:
    conv = convolution.read(draft, node)
    return conv if conv and conv.is_pointwise() else None


def _skip(first: Convolution, add: NodeProto) -> str:
    """What is added to what the first convolution makes."""
    return str(add.input[1] if add.input[0] == first.result else add.input[0])


def _unlike(draft: EditableGraph, first: Convolution, add: NodeProto, last: Convolution) -> str:
    """Why two convolutions had better stay two; nothing if they are to be composed."""
    skip = _skip(first, add)
    if draft.shape(skip) is None or draft.shape(skip) != draft.shape(first.result):
        return "what is added has another shape"
    if any((conv := convolution.read(draft, node)) and conv.is_depthwise() for node in draft.readers(skip)):
        return "what is added is read by a depthwise convolution too"
    if last.outputs * (last.inputs + first.inputs) > _SMALL:
        return f"the product has more than {_SMALL} weights"
    return ""


def _compose(draft: EditableGraph, first: Convolution, add: NodeProto, last: Convolution) -> str:
    """The name of the convolution that does the work of both."""
    late = dense(last)[:, :, 0, 0].astype(np.float64)
    early = late @ dense(first)[:, :, 0, 0]
    weight = np.concatenate([late, early], axis=1)[:, :, None, None].astype(last.weight.dtype)
    bias = (last.bias + late @ first.bias).astype(last.bias.dtype)
    joined = draft.node("Concat", add, [_skip(first, add), first.source], axis=1)
    whole = replace(last, weight=weight, bias=bias, group=1)
    new = convolution.write(draft, whole, joined.output[0], last.result)
    draft.replace([first.node, add, last.node], [joined, new])
    return new.name
