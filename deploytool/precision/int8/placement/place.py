"""Decides which nodes run in 8 bits and which tensors are quantized, by the rules of this folder.

The heavy nodes come first; then the light nodes that can compute on the INT8 results of others without leaving INT8.
The first layer is no exception: with it in FP32 SqueezeNet 1.1 takes 1.8 times as long in ONNX Runtime and ShuffleNet
1.3 times (AVX2, one thread), the others about as long. Inputs of a residual add keep scales of their own: one scale for
both would be wider than the Relu after the add, which would then run in FP32 (ShuffleNet takes 1.25 times as long).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from onnx import NodeProto

from deploytool.precision.int8.placement import (
    carriers,
    concats,
    depthwise,
    fused,
    gates,
    groups,
    heads,
    kernels,
    weighted,
)
from deploytool.precision.int8.placement.fused import Fuses
from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph.editable import EditableGraph

_RULES = (weighted, depthwise, gates, heads, groups, kernels)  # each can keep a heavy node out of 8 bits


@dataclass(frozen=True)
class Placement:
    """The heavy nodes in 8 bits, the quantized activations in graph order, and the groups that share a scale."""

    heavy: tuple[NodeProto, ...]
    activations: tuple[str, ...]
    shared: tuple[frozenset[str], ...]


def heavy_nodes(graph: EditableGraph, form: Form, fuses: Fuses = Fuses.CLIPPING) -> list[NodeProto]:
    """The nodes that multiply by constant weights and that every rule allows in INT8."""
    nodes = [node for node in graph.nodes if all(rule.allows(node, graph, form) for rule in _RULES)]
    is_small = fuses is Fuses.CLIPPING
    return [node for node in nodes if is_small or not depthwise.has_large_window(node, graph)]


def place(
    graph: EditableGraph, form: Form, kept: frozenset[str] = frozenset(), fuses: Fuses = Fuses.CLIPPING
) -> Placement:
    """The placement for a form, without the heavy nodes named in `kept`; on CPUs for a runtime that fuses so much.

    Where activations are fused, results are quantized only for nodes that read them in INT8.
    """
    heavy = [node for node in heavy_nodes(graph, form, fuses) if node.name not in kept]
    read = {str(node.input[0]) for node in heavy}
    if form is Form.E4M3:
        return Placement(tuple(heavy), _in_order(graph, read), ())
    if form is Form.TENSORRT:
        quantized, light = set(read), carriers.before(graph, read)
    else:
        ends = {fused.end(node, graph, fuses) for node in heavy if not fused.returns_float(node)}
        quantized = read | ends if fuses is Fuses.CLIPPING else set(read)
        light = carriers.reached(graph, read | ends, read, fuses)
    for node in light:
        quantized |= {*carriers.activations(node, graph), *carriers.results(node, graph, fuses)}
    pairs = [*carriers.sharing(light, graph), *concats.sharing(light, graph)]
    groups = _groups(pairs, quantized)
    if fuses is Fuses.ACTIVATIONS:
        quantized -= carriers.between(light, graph)
    shared = (group.intersection(quantized) for group in groups)
    return Placement(tuple(heavy), _in_order(graph, quantized), tuple(group for group in shared if group))


def _in_order(graph: EditableGraph, quantized: Collection[str]) -> tuple[str, ...]:
    inputs = (value.name for value in graph.model.graph.input)
    produced = (name for node in graph.nodes for name in node.output)
    return tuple(name for name in (*inputs, *produced) if name in quantized)


def _groups(pairs: Iterable[tuple[str, str]], quantized: Collection[str]) -> tuple[frozenset[str], ...]:
    """The tensors connected by pairs."""
    groups: dict[str, set[str]] = {}
    for pair in pairs:
        joined = set(pair).union(*(groups.get(name, set()) for name in pair)) & set(quantized)
        groups.update(dict.fromkeys(joined, joined))
    return tuple({min(group): frozenset(group) for group in groups.values()}.values())
