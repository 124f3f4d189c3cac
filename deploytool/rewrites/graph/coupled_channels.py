"""The space: all tensors whose channels stand for each other one for one, between the convolutions that mix them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto

from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import is_unary

_TOGETHER = ("Add", "Mul")


@dataclass(frozen=True, eq=False)
class CoupledChannels:
    """So many channels, and the places of the largest of its pictures; 0 if a side is not known."""

    width: int
    places: int


def find(draft: EditableGraph) -> dict[str, CoupledChannels]:
    """The space of every tensor whose channels may be laid out anew, for all that makes and reads it is known."""
    roots: dict[str, str] = {}
    fixed = {*draft.outputs, *(given.name for given in draft.model.graph.input)}
    for node in draft.nodes:
        conv = convolution.read(draft, node)
        if tied := ties(draft, node):
            _join(roots, tied)
        elif conv and conv.group == 1:
            _join(roots, [conv.source])
            _join(roots, [conv.result])
        else:
            fixed.update(node.input, node.output)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for tensor in roots:
        members[_root(roots, tensor)].append(tensor)
    found: dict[str, CoupledChannels] = {}
    for tensors in members.values():
        if fixed.isdisjoint(tensors) and (space := _space(draft, tensors)):
            found |= dict.fromkeys(tensors, space)
    return found


def ties(draft: EditableGraph, node: NodeProto) -> list[str]:
    """The tensors whose channels a node takes one by one, each with what stands there in the others; none if it mixes.

    What it makes is the last of them.
    """
    made = [node.input[0], node.output[0]] if node.input else []
    if node.op_type == "GlobalAveragePool" or is_unary(draft, node):
        return made
    if node.op_type in _TOGETHER and all(draft.maker(tensor) for tensor in node.input):
        shapes = [draft.shape(tensor) for tensor in node.input]
        alike = all(shape is not None and len(shape) == 4 for shape in shapes)
        return [*node.input, node.output[0]] if alike and len({shape[1] for shape in shapes if shape}) == 1 else []
    conv = convolution.read(draft, node)
    return made if conv and conv.is_depthwise() else []


def _root(roots: dict[str, str], tensor: str) -> str:
    while roots[tensor] != tensor:
        tensor = roots[tensor]
    return tensor


def _join(roots: dict[str, str], tensors: Sequence[str]) -> None:
    for tensor in tensors:
        roots.setdefault(tensor, tensor)
        roots[_root(roots, tensor)] = _root(roots, tensors[0])


def _space(draft: EditableGraph, tensors: Sequence[str]) -> CoupledChannels | None:
    """The space of these tensors; None if they are not known to be pictures of so many channels."""
    shapes = [draft.shape(tensor) for tensor in tensors]
    widths = {shape[1] if shape is not None and len(shape) == 4 else None for shape in shapes}
    width = widths.pop()
    if widths or width is None:
        return None
    return CoupledChannels(width, max(math.prod(side or 0 for side in shape[2:]) for shape in shapes if shape))
