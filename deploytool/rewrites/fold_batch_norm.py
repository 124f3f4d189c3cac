"""Folds a batch norm into the convolutions it follows, also through a Concat that lays several side by side.

A batch norm at rest is y = s x + t for each channel, with s = gamma / sqrt(variance + epsilon) and
t = beta - s mean. Of a convolution x = W * u + b it makes y = (s W) * u + (s b + t): a convolution with other weights.
A Concat only says which channels stand where, so each of its branches takes its own slice of s and t.
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


def apply(draft: EditableGraph) -> Outcome:
    """Folds every batch norm whose channels all come from convolutions that nobody else reads."""
    fired, passed = [], []
    norms = [node for node in draft.nodes if node.op_type == "BatchNormalization"]
    for norm in norms:
        line = _line(draft, norm)
        convs = _convolutions(draft, norm.input[0])
        if line is None:
            passed.append(f"{norm.name}: its parameters are not constant")
        elif isinstance(convs, str):
            passed.append(f"{norm.name}: {convs}")
        else:
            fired += _fold(draft, norm, convs, *line)
    return Outcome(tuple(fired), tuple(passed) if norms else ("no batch norm is left",))


def _line(draft: EditableGraph, norm: NodeProto) -> tuple[Array, Array] | None:
    """Slope and offset of every channel, in FP64."""
    said = attributes(norm)
    if said.get("training_mode", 0) or any(draft.constant(each) is None for each in norm.input[1:5]):
        return None
    gamma, beta, mean, variance = (np.asarray(draft.constant(each), np.float64) for each in norm.input[1:5])
    slope = gamma / np.sqrt(variance + said.get("epsilon", 1e-5))
    return slope, beta - slope * mean


def _convolutions(draft: EditableGraph, tensor: str) -> list[Convolution] | str:
    """The convolutions whose channels, one after the other, are the tensor, or why it is not made so."""
    node = draft.maker(tensor)
    if node is None:
        return "it follows an input"
    if draft.only_reader(tensor) is None:
        return f"what {node.name} makes has other readers too"
    if joins_channels(draft, node):
        found: list[Convolution] = []
        for each in node.input:
            part = _convolutions(draft, each)
            if isinstance(part, str):
                return part
            found += part
        return found
    conv = convolution.read(draft, node)
    return [conv] if conv else f"it follows {node.op_type}, which has no weights to take it"


def _fold(draft: EditableGraph, norm: NodeProto, convs: list[Convolution], slope: Array, offset: Array) -> list[str]:
    new, begun, renamed = [], 0, {}
    for conv in convs:
        mine = slice(begun, begun + conv.outputs)
        begun += conv.outputs
        weight = conv.weight * slope[mine].reshape(-1, 1, 1, 1)
        bias = conv.bias * slope[mine] + offset[mine]
        folded = replace(conv, weight=weight.astype(conv.weight.dtype), bias=bias.astype(conv.weight.dtype))
        direct = conv.result == norm.input[0]
        new.append(convolution.write(draft, folded, conv.source, norm.output[0] if direct else ""))
        renamed[conv.result] = new[-1].output[0]
    joints = _joints(draft, norm.input[0])
    for joint in joints:
        makes = norm.output[0] if joint.output[0] == norm.input[0] else ""
        laid = draft.node("Concat", joint, [renamed[each] for each in joint.input], makes, axis=1)
        renamed[joint.output[0]] = laid.output[0]
        new.append(laid)
    draft.replace([norm, *joints, *(conv.node for conv in convs)], new)
    return [node.name for node in new[: len(convs)]]


def _joints(draft: EditableGraph, tensor: str) -> list[NodeProto]:
    """The Concats between a tensor and its convolutions, the inner ones first."""
    node = draft.maker(tensor)
    if node is None or not joins_channels(draft, node):
        return []
    return [joint for each in node.input for joint in _joints(draft, each)] + [node]
