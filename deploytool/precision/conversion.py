"""Converts an FP32 graph to a narrow type, with any nodes kept in FP32: strongly typed, with casts where types meet.

There is one converter for FP16 and BF16, for the graph that ships and for the engine of a build estimate. Whether an
operator accepts the type is read from its ONNX schema.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

from deploytool.backends import fp16_emulation
from deploytool.backends.narrow_floats import NarrowFloat
from deploytool.backends.session import Array

_STANDARD = ("", "ai.onnx")
_TYPE_INDEPENDENT = ("Shape", "Size")  # their results do not depend on the type of their input
_RANDOM = ("Bernoulli", "EyeLike", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")
_RUNNABLE = ("Min", "Max")  # in ONNX Runtime's list because of releases without an FP16 kernel
_FP32_ONLY = frozenset((*DEFAULT_OP_BLOCK_LIST, *_RANDOM)) - frozenset(_RUNNABLE)  # no runtime has them in 16 bits
_FP32, _FP32_SUFFIX = TensorProto.FLOAT, "fp32"


@dataclass(frozen=True)
class Conversion:
    """An FP32 graph and its forms in a narrow type; with `keep_io` the graph's inputs and outputs stay FP32."""

    single: onnx.ModelProto
    keep_io: bool
    narrow: NarrowFloat

    @cached_property
    def half(self) -> onnx.ModelProto:
        """The graph with every node in the narrow type that supports it."""
        return _converted(self, frozenset())

    @cached_property
    def types(self) -> Mapping[str, int]:
        """The element type of every tensor of the FP32 graph; 0 for other values, such as sequences."""
        graph = fp16_emulation.infer_types(self.single).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        return types | {weight.name: weight.data_type for weight in graph.initializer}

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """The nodes that can be in the narrow type or be kept in FP32, in graph order."""
        return tuple(node for node in self.single.graph.node if self._has_choice(node))

    def _has_choice(self, node: onnx.NodeProto) -> bool:
        touched = any(self.types.get(name) == _FP32 for name in (*node.input, *node.output))
        return touched and _supports(node, self.types, self.opset, self.narrow)

    @cached_property
    def opset(self) -> int:
        """The opset version of the standard operators."""
        return max(int(opset.version) for opset in self.single.opset_import if opset.domain in _STANDARD)

    @cached_property
    def weights(self) -> Mapping[str, TensorProto]:
        """The initializers of the FP32 graph by name."""
        return {weight.name: weight for weight in self.single.graph.initializer}

    @cached_property
    def _half_weights(self) -> dict[str, TensorProto]:
        return {}

    def weight(self, name: str, kind: int) -> TensorProto:
        """A weight of the FP32 graph in that type; each is rounded once."""
        if kind == _FP32:
            return self.weights[name]
        if name not in self._half_weights:
            self._half_weights[name] = fp16_emulation.round_weight(self.weights[name], self.narrow)
        return self._half_weights[name]

    def beyond(self, inputs: Mapping[str, Array]) -> frozenset[str]:
        """The nodes that overflow on these inputs: the producer and the consumers of every tensor beyond the range.

        Infinite values and masks do not count.
        """
        largest = fp16_emulation.tensor_ranges(self.single, inputs)
        convertible = {node.name for node in self.nodes}
        return frozenset(
            node.name
            for node in self.single.graph.node
            if node.name in convertible
            and any(not largest.get(name, 0) <= self.narrow.largest for name in (*node.input, *node.output))
        )

    def keeping(self, kept: Collection[str]) -> onnx.ModelProto:
        """The narrow graph with the nodes `kept` in FP32 with FP32 weights; tensors only between such nodes are FP32.

        Every tensor keeps its name in the type in which it is produced; its cast has the name with a suffix.
        """
        return _converted(self, frozenset(kept)) if kept else self.half


def prepared(single: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an FP32 graph in which every node has a unique name and floating-point constants are initializers."""
    named = onnx.ModelProto()
    named.CopyFrom(single)
    _name(named.graph)
    _constants_to_weights(named.graph)
    return named


def with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a unique name for every node: the same object if they have one, or a copy."""
    names = [node.name for node in model.graph.node]
    if all(names) and len(set(names)) == len(names):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _name(copy.graph)
    return copy


def _name(graph: onnx.GraphProto) -> None:
    """Gives every node without a unique name one."""
    counts = Counter(node.name for node in graph.node)
    for node in graph.node:
        if not node.name or counts[node.name] > 1:
            node.name = f"{node.output[0]}/{node.op_type}"


def _constants_to_weights(graph: onnx.GraphProto) -> None:
    """Replaces floating-point constants by initializers: each consumer can read an initializer in its type uncast."""
    remaining = []
    for node in graph.node:
        value = _constant(node)
        if value is None:
            remaining.append(node)
        else:
            graph.initializer.append(value)
    del graph.node[:]
    graph.node.extend(remaining)


def _constant(node: onnx.NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or node.domain not in _STANDARD:
        return None
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value" and value.data_type == _FP32:
        return _renamed(value, node.output[0])
    if attribute.name == "value_float":
        return helper.make_tensor(node.output[0], _FP32, [], [value])
    if attribute.name == "value_floats":
        return helper.make_tensor(node.output[0], _FP32, [len(value)], value)
    return None


def _supports(node: onnx.NodeProto, types: Mapping[str, int], opset: int, narrow: NarrowFloat) -> bool:
    """Whether a node can be in a type: its operator supports it, it has no subgraph, and all its values are tensors."""
    if node.domain not in _STANDARD or node.op_type in _FP32_ONLY or any(True for _ in _subgraphs(node)):
        return False
    if not onnx.defs.has(node.op_type, opset, node.domain):
        return False
    if any(name and not types.get(name) for name in (*node.input, *node.output)):
        return False
    outputs = [index for index, name in enumerate(node.output) if types[name] == _FP32]
    return all(_accepts(node, index, opset, narrow, output=True) for index in outputs[:1])


def _accepts(node: onnx.NodeProto, index: int, opset: int, narrow: NarrowFloat, *, output: bool = False) -> bool:
    """Whether the schema allows a type for the input of that index, or for the output."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    formal = list(schema.outputs if output else schema.inputs)
    kind = formal[min(index, len(formal) - 1)].type_str
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return narrow.schema_name in allowed.get(kind, [kind])


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a node."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _subgraph_inputs(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that the subgraphs of a node read, their own and those of the enclosing graph."""
    for graph in _subgraphs(node):
        for inner in graph.node:
            yield from (*inner.input, *_subgraph_inputs(inner))
        yield from (value.name for value in graph.output)


class _MixedGraph:
    """The mixed-precision graph under construction: the type of every tensor, and its name in each type."""

    def __init__(self, source: Conversion, kept: frozenset[str]) -> None:
        self.source, self._narrow = source, source.narrow.element_type
        self.half = frozenset(node.name for node in source.nodes) - kept
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, TensorProto] = {}
        self._produced: dict[str, tuple[int, str]] = {}  # by name in the source: type and name here
        self._casts: dict[tuple[str, int], str] = {}
        self._taken = set(source.types)

    def begin(self, value: onnx.ValueInfoProto, kind: int) -> None:
        """Adds an input of the graph in that type."""
        self._produced[value.name] = kind, value.name
        value.type.tensor_type.elem_type = kind

    def end(self, value: onnx.ValueInfoProto, kind: int) -> None:
        """Adds an output of the graph in that type; it may be an initializer."""
        value.type.tensor_type.elem_type = kind
        if value.name in self.source.weights:
            self._produced[value.name] = kind, value.name
            self.weights[value.name] = self.source.weight(value.name, kind)

    def add(self, node: onnx.NodeProto, ends: Mapping[str, int]) -> None:
        """Adds a node of the source in its type, after its casts; `ends` are the types of the graph's outputs."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        half = node.name in self.half
        for index, name in enumerate(node.input):
            if self._is_float(name) and (node.op_type not in _TYPE_INDEPENDENT or name not in self._produced):
                accepts = half and _accepts(node, index, self.source.opset, self.source.narrow)
                copy.input[index] = self._read(name, self._narrow if accepts else _FP32)
            elif self._is_float(name):
                copy.input[index] = self._produced[name][1]
        self._rename_in_subgraphs(copy)
        if half:
            _convert_attributes(copy, self.source.narrow)
        self.nodes.append(copy)
        for index, name in enumerate(node.output):
            if self._is_float(name):
                accepts = half and _accepts(node, index, self.source.opset, self.source.narrow, output=True)
                kind = self._narrow if accepts else _FP32
                end = ends.get(name, kind)
                own_name = name if end == kind else self._unused_name(name, kind)
                self._produced[name], copy.output[index] = (kind, own_name), own_name
                if end != kind:
                    self._casts[name, end] = self._cast(own_name, name, end)

    def _is_float(self, name: str) -> bool:
        return self.source.types.get(name) == _FP32

    def _read(self, name: str, kind: int) -> str:
        """The name in that type of a tensor that is FP32 in the source; adds a cast or an initializer if needed."""
        if name not in self._produced:
            weight_name = name if kind == self._narrow else name + fp16_emulation.FP32_SUFFIX
            self.weights.setdefault(weight_name, _renamed(self.source.weight(name, kind), weight_name))
            return weight_name
        own_kind, own_name = self._produced[name]
        if own_kind == kind:
            return own_name
        if (name, kind) not in self._casts:
            self._casts[name, kind] = self._cast(own_name, self._unused_name(name, kind), kind)
        return self._casts[name, kind]

    def _rename_in_subgraphs(self, node: onnx.NodeProto) -> None:
        """Makes subgraphs, which stay FP32, read the FP32 form of tensors of the enclosing graph."""
        for graph in _subgraphs(node):
            own = {name for inner in graph.node for name in inner.output}
            own |= {value.name for value in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                for index, name in enumerate(inner.input):
                    if name not in own and self._is_float(name):
                        inner.input[index] = self._read(name, _FP32)
                self._rename_in_subgraphs(inner)
            for value in graph.output:
                if value.name not in own and self._is_float(value.name):
                    value.name = self._read(value.name, _FP32)

    def _cast(self, source: str, name: str, kind: int) -> str:
        self.nodes.append(helper.make_node("Cast", [source], [name], name, to=kind))
        return name

    def _unused_name(self, name: str, kind: int) -> str:
        """A name with the suffix of that type that no tensor has."""
        unused = f"{name}/{_FP32_SUFFIX if kind == _FP32 else self.source.narrow.suffix}"
        while unused in self._taken:
            unused += "_"
        self._taken.add(unused)
        return unused


def _converted(source: Conversion, kept: frozenset[str]) -> onnx.ModelProto:
    """The graph with the nodes `kept` and those without support in FP32, and the others in the narrow type."""
    model, graph = onnx.ModelProto(), source.single.graph
    model.CopyFrom(_empty(source.single))
    mixed, kind = _MixedGraph(source, kept), _FP32 if source.keep_io else source.narrow.element_type
    converted = model.graph
    inputs = [value for value in converted.input if source.types.get(value.name) == _FP32]
    outputs = [value for value in converted.output if source.types.get(value.name) == _FP32]
    for value in inputs:
        mixed.begin(value, kind)
    for value in outputs:
        mixed.end(value, kind)
    for node in graph.node:
        mixed.add(node, {value.name: kind for value in outputs})
    converted.node.extend(mixed.nodes)
    read = {name for node in converted.node for name in (*node.input, *_subgraph_inputs(node))}
    read |= {value.name for value in converted.output}
    other_weights = (weight for weight in graph.initializer if weight.data_type != _FP32 and weight.name in read)
    converted.initializer.extend([*other_weights, *mixed.weights.values()])
    return model


def _empty(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model without its nodes and initializers, which are large."""
    graph = helper.make_graph([], model.graph.name, model.graph.input, model.graph.output)
    empty = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    empty.functions.extend(model.functions)
    empty.producer_name, empty.producer_version = model.producer_name, model.producer_version
    return empty


def _convert_attributes(node: onnx.NodeProto, narrow: NarrowFloat) -> None:
    """Changes the FP32 types and tensors in a node's attributes to the narrow type."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FP32:
            attribute.i = narrow.element_type
        elif attribute.HasField("t") and attribute.t.data_type == _FP32:
            attribute.t.CopyFrom(fp16_emulation.round_weight(attribute.t, narrow))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(
            helper.make_attribute("value", helper.make_tensor("value", narrow.element_type, [1], [0]))
        )


def _renamed(weight: TensorProto, name: str) -> TensorProto:
    if weight.name == name:
        return weight
    renamed = TensorProto()
    renamed.CopyFrom(weight)
    renamed.name = name
    return renamed
