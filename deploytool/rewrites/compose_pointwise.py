"""Composes two pointwise convolutions with an Add between them into one, where the values in between have no other use.

E (P x + p + s) + e = (E P) x + E s + (E p + e): one convolution with weights (E, E P) that reads the Concat of s and x.
TensorRT lets the producers of s and x write into the Concat's buffer, so it launches one kernel instead of two. The
product takes more multiplications, so the rewrite suits GPUs that are bound by kernel launches, and applies only where
the product is small. It skips an s that a depthwise convolution reads too: that convolution could not read its
channels from the wider buffer without a copy.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution, dense_weight
from deploytool.rewrites.graph.editable import EditableGraph

_MAX_WEIGHTS = 100_000  # of the product


def apply(graph: EditableGraph) -> Outcome:
    """Composes the pointwise convolutions around every Add whose only consumer is the second of them."""
    applied, skipped = [], []
    for add in [node for node in graph.nodes if node.op_type == "Add"]:
        last = _read_pointwise(graph, graph.only_consumer(add.output[0]))
        producers = [_read_pointwise(graph, graph.producer(name)) for name in add.input if graph.only_consumer(name)]
        first = next((conv for conv in producers if conv), None)
        if first and last:
            reason = _skip_reason(graph, first, add, last)
            if reason:
                skipped.append(f"{add.name}: {reason}")
            else:
                applied.append(_compose(graph, first, add, last))
    no_match = ("no Add lies between pointwise convolutions",)
    return Outcome(tuple(applied), tuple(skipped) if applied or skipped else no_match)


def _read_pointwise(graph: EditableGraph, node: NodeProto | None) -> Convolution | None:
    conv = convolution.read(graph, node)
    return conv if conv and conv.is_pointwise() else None


def _shortcut(first: Convolution, add: NodeProto) -> str:
    """The tensor that is added to the output of the first convolution."""
    return str(add.input[1] if add.input[0] == first.output else add.input[0])


def _skip_reason(graph: EditableGraph, first: Convolution, add: NodeProto, last: Convolution) -> str:
    """Why two convolutions are not composed; empty if they are."""
    shortcut = _shortcut(first, add)
    if graph.shape(shortcut) is None or graph.shape(shortcut) != graph.shape(first.output):
        return "the operands of the Add have different shapes"
    if any((conv := convolution.read(graph, node)) and conv.is_depthwise() for node in graph.consumers(shortcut)):
        return "a depthwise convolution reads the other operand of the Add too"
    if last.out_channels * (last.in_channels + first.in_channels) > _MAX_WEIGHTS:
        return f"the product has more than {_MAX_WEIGHTS} weights"
    return ""


def _compose(graph: EditableGraph, first: Convolution, add: NodeProto, last: Convolution) -> str:
    """Replaces both convolutions and the Add by one convolution; returns its name."""
    last_matrix = dense_weight(last)[:, :, 0, 0].astype(np.float64)
    product = last_matrix @ dense_weight(first)[:, :, 0, 0]
    weight = np.concatenate([last_matrix, product], axis=1)[:, :, None, None].astype(last.weight.dtype)
    bias = (last.bias + last_matrix @ first.bias).astype(last.bias.dtype)
    concat = graph.make_node("Concat", add, [_shortcut(first, add), first.input], axis=1)
    composed = replace(last, weight=weight, bias=bias, group=1)
    new = convolution.write(graph, composed, concat.output[0], last.output)
    graph.replace([first.node, add, last.node], [concat, new])
    return new.name
