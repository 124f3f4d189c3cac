"""Replaces a Concat of channels that do not fill whole blocks by an Add of zero-padded tensors that do.

Concat(x, y) = (x, 0) + (0, y). A pointwise convolution that produces x produces (x, 0) once its weights have rows of
zeros; any other tensor is padded by a pointwise convolution whose weights are the identity and zeros, which is exact.
It is worth it where the inputs do not fill blocks of 16 channels and the output does: ONNX Runtime leaves its blocked
layout for such a Concat.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution, dense_weight, take_channels
from deploytool.rewrites.graph.editable import Array, EditableGraph
from deploytool.rewrites.graph.parallel_branches import joins_channels

_BLOCK = 16  # channels


def apply(graph: EditableGraph) -> Outcome:
    """Replaces every Concat of two tensors whose output fills blocks, if a pointwise convolution produces one input."""
    applied, skipped = [], []
    for concat in [node for node in graph.nodes if joins_channels(graph, node)]:
        reason = _skip_reason(graph, concat)
        if reason:
            skipped.append(f"{concat.name}: {reason}")
        else:
            applied.append(_replace(graph, concat))
    return Outcome(tuple(applied), tuple(skipped) if applied or skipped else ("no Concat joins channels",))


def _skip_reason(graph: EditableGraph, concat: NodeProto) -> str:
    """Why a Concat is not replaced; empty if it is."""
    shapes = [graph.shape(tensor) for tensor in concat.input]
    if len(shapes) != 2 or not any(_pointwise_producer(graph, tensor) for tensor in concat.input):
        return "it does not join two tensors of which a pointwise convolution produces one"
    widths = [shape[1] for shape in shapes if shape is not None and len(shape) == 4 and shape[1] is not None]
    if len(widths) != 2:
        return "its numbers of channels are unknown"
    if all(width % _BLOCK == 0 for width in widths) or sum(widths) % _BLOCK:
        return f"{widths[0]} and {widths[1]} channels gain nothing in blocks of {_BLOCK}"
    return ""


def _pointwise_producer(graph: EditableGraph, tensor: str) -> Convolution | None:
    """The pointwise convolution that produces a tensor with one consumer; None for any other tensor."""
    if graph.only_consumer(tensor) is None:
        return None
    conv = convolution.read(graph, graph.producer(tensor))
    return conv if conv is not None and conv.is_pointwise() else None


def _replace(graph: EditableGraph, concat: NodeProto) -> str:
    """Replaces a Concat; returns the name of the Add."""
    widths = [int((graph.shape(tensor) or (0, 0))[1] or 0) for tensor in concat.input]
    channels = np.arange(sum(widths))
    layouts = [np.where(channels < widths[0], channels, -1), np.where(channels >= widths[0], channels - widths[0], -1)]
    dtype = next(conv.weight.dtype for tensor in concat.input if (conv := _pointwise_producer(graph, tensor)))
    new: list[NodeProto] = []
    old = [concat]
    for tensor, width, layout in zip(concat.input, widths, layouts, strict=True):
        conv = _pointwise_producer(graph, tensor)
        if conv is not None:
            weight, bias = take_channels(dense_weight(conv), layout), take_channels(conv.bias, layout)
            new.append(convolution.write(graph, replace(conv, weight=weight, bias=bias, group=1), conv.input))
            old.append(conv.node)
        else:
            new.append(convolution.write(graph, _padding(concat, width, layout, dtype), tensor))
    new.append(graph.make_node("Add", concat, [node.output[0] for node in new], concat.output[0]))
    graph.replace(old, new)
    return new[-1].name


def _padding(concat: NodeProto, width: int, layout: Array, dtype: Any) -> Convolution:
    """The pointwise convolution that copies `width` channels to the positions of `layout`, among zeros."""
    weight = take_channels(np.eye(width, dtype=dtype), layout).reshape(len(layout), width, 1, 1)
    return Convolution(concat, weight, np.zeros(len(layout), dtype))
