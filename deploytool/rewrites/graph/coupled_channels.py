"""Finds coupled channels: tensors whose channels correspond one to one, between the convolutions that mix channels."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto

from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import is_unary

_ELEMENTWISE = ("Add", "Mul")


@dataclass(frozen=True, eq=False)
class CoupledChannels:
    """A set of coupled tensors: their number of channels, and the pixels of the largest (0 if its size is unknown)."""

    channels: int
    pixels: int


def find(graph: EditableGraph) -> dict[str, CoupledChannels]:
    """The coupled channels of every tensor whose channels may be reordered at all its producers and consumers."""
    roots: dict[str, str] = {}
    fixed = {*graph.outputs, *(value.name for value in graph.model.graph.input)}
    for node in graph.nodes:
        conv = convolution.read(graph, node)
        if tensors := coupled_tensors(graph, node):
            _join(roots, tensors)
        elif conv and conv.group == 1:
            _join(roots, [conv.input])
            _join(roots, [conv.output])
        else:
            fixed.update(node.input, node.output)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for tensor in roots:
        members[_root(roots, tensor)].append(tensor)
    groups: dict[str, CoupledChannels] = {}
    for names in members.values():
        if fixed.isdisjoint(names) and (group := _measure(graph, names)):
            groups |= dict.fromkeys(names, group)
    return groups


def coupled_tensors(graph: EditableGraph, node: NodeProto) -> list[str]:
    """The tensors that a node combines channel by channel, its output last; empty if it mixes channels."""
    ends = [node.input[0], node.output[0]] if node.input else []
    if node.op_type == "GlobalAveragePool" or is_unary(graph, node):
        return ends
    if node.op_type in _ELEMENTWISE and all(graph.producer(tensor) for tensor in node.input):
        shapes = [graph.shape(tensor) for tensor in node.input]
        are_known = all(shape is not None and len(shape) == 4 for shape in shapes)
        are_equal = len({shape[1] for shape in shapes if shape}) == 1
        return [*node.input, node.output[0]] if are_known and are_equal else []
    conv = convolution.read(graph, node)
    return ends if conv and conv.is_depthwise() else []


def _root(roots: dict[str, str], tensor: str) -> str:
    """The representative of a tensor's set (union-find)."""
    while roots[tensor] != tensor:
        tensor = roots[tensor]
    return tensor


def _join(roots: dict[str, str], tensors: Sequence[str]) -> None:
    """Unites the sets of these tensors (union-find)."""
    for tensor in tensors:
        roots.setdefault(tensor, tensor)
        roots[_root(roots, tensor)] = _root(roots, tensors[0])


def _measure(graph: EditableGraph, tensors: Sequence[str]) -> CoupledChannels | None:
    """The size of these tensors; None if they are not known to be feature maps with one number of channels."""
    shapes = [graph.shape(tensor) for tensor in tensors]
    widths = {shape[1] if shape is not None and len(shape) == 4 else None for shape in shapes}
    width = widths.pop()
    if widths or width is None:
        return None
    return CoupledChannels(width, max(math.prod(size or 0 for size in shape[2:]) for shape in shapes if shape))
