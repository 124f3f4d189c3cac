"""An FP16 graph some of whose nodes are kept in FP32: strongly typed, with a cast wherever the two meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from deploytool.backends import Array, rounded

SMALLEST, LARGEST = 5.96e-8, 65504.0  # FP16's smallest subnormal and largest finite number


@dataclass(frozen=True)
class Halved:
    """A graph in FP32 and the same in FP16, node by node."""

    single: onnx.ModelProto
    half: onnx.ModelProto

    @cached_property
    def halves(self) -> frozenset[str]:
        """The tensors of the FP16 graph that are FP16."""
        graph = onnx.shape_inference.infer_shapes(self.half, strict_mode=True).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        found = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
        return frozenset(found | {each.name for each in graph.initializer if each.data_type == TensorProto.FLOAT16})

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """The nodes that could be kept in FP32, in the order of the graph: those that read or make FP16."""
        own = {node.name for node in self.single.graph.node}
        inner = {name for node in self.half.graph.node for name in _inner(node)}
        fixed = {node.name for node in self.half.graph.node if inner.intersection((node.name, *node.output))}
        return tuple(
            node
            for node in self.half.graph.node
            if node.name in own and not self.halves.isdisjoint((*node.input, *node.output)) and node.name not in fixed
        )

    def beyond(self, inputs: Mapping[str, Array]) -> frozenset[str]:
        """The nodes that must be FP32 on these inputs: where a tensor is too large for FP16, its maker and readers."""
        largest = rounded.largest(self.single, inputs)
        free = {node.name for node in self.nodes}
        return frozenset(
            node.name
            for node in self.single.graph.node
            if node.name in free and any(not largest.get(name, 0) <= LARGEST for name in (*node.input, *node.output))
        )

    def keeping(self, kept: Collection[str]) -> onnx.ModelProto:
        """The FP16 graph with those nodes in FP32 again, with their FP32 weights; what only they exchange stays FP32.

        Every tensor keeps its name, and what is cast from it is called after it.
        """
        return _mixed(self, frozenset(kept)) if kept else self.half


def halve(single: onnx.ModelProto, *, keep_io: bool) -> Halved:
    """The graph in FP16, with explicit casts behind FP32 inputs and before FP32 outputs if those are to stay.

    Nodes without a name get one. Weights are clipped at FP16's limits and not before. Raises whatever the converter
    or the checker raises.
    """
    named = onnx.ModelProto()
    named.CopyFrom(single)
    _name(named.graph)
    copy = onnx.ModelProto()
    copy.CopyFrom(named)
    half = convert_float_to_float16(copy, min_positive_val=SMALLEST, max_finite_val=LARGEST, keep_io_types=keep_io)
    OnnxModel.graph_topological_sort(half.graph)  # the converter appends the inputs' casts behind their readers
    onnx.checker.check_model(half, full_check=True)
    return Halved(named, half)


def _name(graph: onnx.GraphProto) -> None:
    """A name for every node that has none of its own."""
    times = Counter(node.name for node in graph.node)
    for node in graph.node:
        if not node.name or times[node.name] > 1:
            node.name = f"{node.output[0]}/{node.op_type}"


def _inner(node: onnx.NodeProto) -> Iterator[str]:
    """The name of a node with graphs inside it, and what those read: of such nodes none is kept."""
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
            yield node.name
            for inside in graph.node:
                yield from (*inside.input, *_inner(inside))


@dataclass(frozen=True)
class _Names:
    """By what the FP16 graph calls a tensor: the same in FP32, where there is one; in FP16; and what was a cast of it.

    `widened` are the results of casts to FP32 that are not needed any more.
    """

    exact: dict[str, str]
    narrow: dict[str, str]
    widened: dict[str, str]


def _names(source: Halved, kept: frozenset[str]) -> _Names:
    """What keeping these nodes does to the names of tensors."""
    names, ends = _Names({}, {}, {}), {value.name for value in source.half.graph.output}
    own = {node.name for node in source.single.graph.node}
    casts = [node for node in source.half.graph.node if node.name not in own]
    final = {node.input[0]: node.output[0] for node in casts if node.output[0] in ends}
    for node in source.half.graph.node:
        for made in (name for name in node.output if name in source.halves):
            if node.name in kept:
                names.exact[made] = final.get(made, f"{made}/fp32" if made in ends else made)
                names.narrow[made] = f"{made}/fp16" if names.exact[made] == made else made
            elif node.name not in own:
                names.exact[made] = node.input[0]
    for node in casts:
        given, made = node.input[0], node.output[0]
        if given in names.exact and (made not in ends or made == names.exact[given]):
            names.widened[made] = names.exact[given]
    return names


def _mixed(source: Halved, kept: frozenset[str]) -> onnx.ModelProto:
    names = _names(source, kept)
    model = onnx.ModelProto()
    model.CopyFrom(source.half)
    graph = model.graph
    singles = {weight.name: weight for weight in source.single.graph.initializer}
    originals = {node.name: node for node in source.single.graph.node}
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = list(graph.initializer)
    there = {weight.name for weight in weights}
    for node in source.half.graph.node:
        if node.name in kept:
            for name in node.input:
                wide = f"{name}/fp32"
                if name in source.halves and name not in names.exact and wide not in there:
                    there.add(wide)
                    if name in singles:
                        weights.append(_renamed(singles[name], wide))
                    else:
                        nodes.append(_cast(name, wide, TensorProto.FLOAT))
            nodes += _single(node, originals[node.name], source, names)
        elif node.output[0] not in names.widened:
            nodes.append(_half(node, names))
    del graph.node[:], graph.value_info[:], graph.initializer[:]
    graph.node.extend(_needed(nodes, {value.name for value in graph.output}))
    read = {name for node in graph.node for name in (*node.input, *_inner(node))}
    graph.initializer.extend(weight for weight in weights if weight.name in read)
    return model


def _single(half: onnx.NodeProto, original: onnx.NodeProto, source: Halved, names: _Names) -> list[onnx.NodeProto]:
    """The node as it was in FP32, and the casts of what it makes."""
    node = onnx.NodeProto()
    node.CopyFrom(original)
    wide = {name: f"{name}/fp32" for name in source.halves} | names.widened | names.exact
    node.input[:] = [wide.get(name, name) for name in half.input]
    made = [name for name in half.output if name in source.halves]
    node.output[:] = [names.exact.get(name, name) for name in half.output]
    return [node, *(_cast(names.exact[name], names.narrow[name], TensorProto.FLOAT16) for name in made)]


def _half(half: onnx.NodeProto, names: _Names) -> onnx.NodeProto:
    node = onnx.NodeProto()
    node.CopyFrom(half)
    node.input[:] = [names.widened.get(name, names.narrow.get(name, name)) for name in half.input]
    return node


def _needed(nodes: Iterable[onnx.NodeProto], ends: set[str]) -> list[onnx.NodeProto]:
    """The nodes without the casts that nobody reads."""
    left = list(nodes)
    read = ends | {name for node in left for name in (*node.input, *_inner(node))}
    return [node for node in left if node.op_type != "Cast" or node.output[0] in read]


def _cast(given: str, made: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [given], [made], made, to=to)


def _renamed(weight: onnx.TensorProto, name: str) -> onnx.TensorProto:
    renamed = onnx.TensorProto()
    renamed.CopyFrom(weight)
    renamed.name = name
    return renamed
