"""Writes a Concat of channels that do not fill blocks as a sum of tensors that do.

Laying x beside y is (x, 0) + (0, y). A pointwise convolution that makes x makes (x, 0) with rows of zeros; anything
else gets there by a pointwise convolution whose weights are the identity among zeros, which is exact. Worth it where
the parts do not fill blocks of 16 channels and the whole does: else ONNX Runtime leaves its blocked layout for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution, dense, take
from deploytool.rewrites.graph.editable import Array, EditableGraph
from deploytool.rewrites.graph.parallel_branches import joins_channels

_BLOCK = 16


def apply(draft: EditableGraph) -> Outcome:
    """Replaces every Concat of two tensors that fills blocks, one of them straight from a pointwise convolution."""
    fired, passed = [], []
    for concat in [node for node in draft.nodes if joins_channels(draft, node)]:
        why = _unlike(draft, concat)
        if why:
            passed.append(f"{concat.name}: {why}")
        else:
            fired.append(_sum(draft, concat))
    return Outcome(tuple(fired), tuple(passed) if fired or passed else ("no Concat joins channels",))


def _unlike(draft: EditableGraph, concat: NodeProto) -> str:
    """Why a Concat had better stay; nothing if it is to go."""
    shapes = [draft.shape(tensor) for tensor in concat.input]
    if len(shapes) != 2 or not any(_own(draft, tensor) for tensor in concat.input):
        return "it does not join two tensors, one straight from a pointwise convolution"
    widths = [shape[1] for shape in shapes if shape is not None and len(shape) == 4 and shape[1] is not None]
    if len(widths) != 2:
        return "its channels are not known"
    if all(width % _BLOCK == 0 for width in widths) or sum(widths) % _BLOCK:
        return f"{widths[0]} and {widths[1]} channels gain nothing in blocks of {_BLOCK}"
    return ""


def _own(draft: EditableGraph, tensor: str) -> Convolution | None:
    """The pointwise convolution that makes a tensor for this reader alone."""
    conv = convolution.read(draft, draft.maker(tensor)) if draft.only_reader(tensor) is not None else None
    return conv if conv is not None and conv.is_pointwise() else None


def _sum(draft: EditableGraph, concat: NodeProto) -> str:
    widths = [int((draft.shape(tensor) or (0, 0))[1] or 0) for tensor in concat.input]
    places = np.arange(sum(widths))
    layouts = [np.where(places < widths[0], places, -1), np.where(places >= widths[0], places - widths[0], -1)]
    kind = next(conv.weight.dtype for tensor in concat.input if (conv := _own(draft, tensor)))
    new: list[NodeProto] = []
    old = [concat]
    for tensor, width, layout in zip(concat.input, widths, layouts, strict=True):
        conv = _own(draft, tensor)
        if conv is not None:
            wide = replace(conv, weight=take(dense(conv), layout), bias=take(conv.bias, layout), group=1)
            new.append(convolution.write(draft, wide, conv.source))
            old.append(conv.node)
        else:
            new.append(convolution.write(draft, _identity(concat, width, layout, kind), tensor))
    new.append(draft.node("Add", concat, [each.output[0] for each in new], concat.output[0]))
    draft.replace(old, new)
    return new[-1].name


def _identity(concat: NodeProto, width: int, layout: Array, kind: Any) -> Convolution:
    """The pointwise convolution that puts channels where the layout says."""
    weight = take(np.eye(width, dtype=kind), layout).reshape(len(layout), width, 1, 1)
    return Convolution(concat, weight, np.zeros(len(layout), kind))
