"""Folds a batch norm into the convolutions before it, also through a Concat of several convolutions.

In inference a batch norm is y = s x + t for each channel, with s = gamma / sqrt(variance + epsilon) and
t = beta - s mean. After a convolution x = W * u + b it gives y = (s W) * u + (s b + t): a convolution with other
weights. A Concat only orders the channels, so each of its branches takes its own slice of s and t.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution
from deploytool.rewrites.graph.editable import Array, EditableGraph, attributes
from deploytool.rewrites.graph.parallel_branches import joins_channels


def apply(graph: EditableGraph) -> Outcome:
    """Folds every batch norm whose channels all come from convolutions without another consumer."""
    applied, skipped = [], []
    norms = [node for node in graph.nodes if node.op_type == "BatchNormalization"]
    for norm in norms:
        affine = _affine(graph, norm)
        convs = _convolutions(graph, norm.input[0])
        if affine is None:
            skipped.append(f"{norm.name}: its parameters are not constant")
        elif isinstance(convs, str):
            skipped.append(f"{norm.name}: {convs}")
        else:
            applied += _fold(graph, norm, convs, *affine)
    return Outcome(tuple(applied), tuple(skipped) if norms else ("no batch norm is left",))


def _affine(graph: EditableGraph, norm: NodeProto) -> tuple[Array, Array] | None:
    """Scale and shift of every channel, in FP64; None if they are not constant."""
    settings = attributes(norm)
    if settings.get("training_mode", 0) or any(graph.constant(name) is None for name in norm.input[1:5]):
        return None
    gamma, beta, mean, variance = (np.asarray(graph.constant(name), np.float64) for name in norm.input[1:5])
    scale = gamma / np.sqrt(variance + settings.get("epsilon", 1e-5))
    return scale, beta - scale * mean


def _convolutions(graph: EditableGraph, tensor: str) -> list[Convolution] | str:
    """The convolutions whose concatenated channels are the tensor, or why there are none."""
    node = graph.producer(tensor)
    if node is None:
        return "it follows an input"
    if graph.only_consumer(tensor) is None:
        return f"the output of {node.name} has other consumers"
    if joins_channels(graph, node):
        convs: list[Convolution] = []
        for name in node.input:
            branch = _convolutions(graph, name)
            if isinstance(branch, str):
                return branch
            convs += branch
        return convs
    conv = convolution.read(graph, node)
    return [conv] if conv else f"it follows {node.op_type}, which has no weights to fold it into"


def _fold(graph: EditableGraph, norm: NodeProto, convs: list[Convolution], scale: Array, shift: Array) -> list[str]:
    """Replaces a batch norm and its convolutions; returns the names of the folded convolutions."""
    new, begin, renamed = [], 0, {}
    for conv in convs:
        channels = slice(begin, begin + conv.out_channels)
        begin += conv.out_channels
        weight = conv.weight * scale[channels].reshape(-1, 1, 1, 1)
        bias = conv.bias * scale[channels] + shift[channels]
        folded = replace(conv, weight=weight.astype(conv.weight.dtype), bias=bias.astype(conv.weight.dtype))
        is_direct = conv.output == norm.input[0]
        new.append(convolution.write(graph, folded, conv.input, norm.output[0] if is_direct else ""))
        renamed[conv.output] = new[-1].output[0]
    concats = _concats(graph, norm.input[0])
    for concat in concats:
        output = norm.output[0] if concat.output[0] == norm.input[0] else ""
        copy = graph.make_node("Concat", concat, [renamed[name] for name in concat.input], output, axis=1)
        renamed[concat.output[0]] = copy.output[0]
        new.append(copy)
    graph.replace([norm, *concats, *(conv.node for conv in convs)], new)
    return [node.name for node in new[: len(convs)]]


def _concats(graph: EditableGraph, tensor: str) -> list[NodeProto]:
    """The Concats between a tensor and its convolutions, the inner ones first."""
    node = graph.producer(tensor)
    if node is None or not joins_channels(graph, node):
        return []
    return [concat for name in node.input for concat in _concats(graph, name)] + [node]
