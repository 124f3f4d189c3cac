"""An FP16 graph some of whose nodes are kept in FP32: strongly typed, with one cast wherever the two meet.

The only converter here: the graph that ships and the engine that is built for an estimate both come from it. What an
operator may take in FP16 is read from ONNX's own definition of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

from deploytool import fp16_rounding
from deploytool.backends import fp16_emulation
from deploytool.backends.session import Array

_STANDARD = ("", "ai.onnx")
_EITHER = ("Shape", "Size")  # what they give is the same of both types
_DRAWN = ("Bernoulli", "EyeLike", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")
_RUNNABLE = ("Min", "Max")  # in ONNX Runtime's list for releases that had no FP16 kernel of them
_SINGLE = frozenset((*DEFAULT_OP_BLOCK_LIST, *_DRAWN)) - frozenset(_RUNNABLE)  # operators that no runtime has in FP16
_FULL, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_SUFFIX: Mapping[int, str] = {_FULL: "fp32", _HALF: "fp16"}


@dataclass(frozen=True)
class Fp16Conversion:
    """A graph in FP32, and with `half` and `keeping` the same in FP16, node by node; `keep_io` leaves its ends FP32."""

    single: onnx.ModelProto
    keep_io: bool

    @cached_property
    def half(self) -> onnx.ModelProto:
        """The graph with all in FP16 that can be."""
        return _converted(self, frozenset())

    @cached_property
    def types(self) -> Mapping[str, int]:
        """The type of every tensor of the FP32 graph; 0 for what is none, such as a sequence."""
        graph = fp16_emulation.infer_types(self.single).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        found = {value.name: value.type.tensor_type.elem_type for value in values}
        return found | {weight.name: weight.data_type for weight in graph.initializer}

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """The nodes that could be in FP16 or kept in FP32, in the order of the graph."""
        return tuple(node for node in self.single.graph.node if self._has_choice(node))

    def _has_choice(self, node: onnx.NodeProto) -> bool:
        touched = any(self.types.get(name) == _FULL for name in (*node.input, *node.output))
        return touched and _able(node, self.types, self.opset)

    @cached_property
    def opset(self) -> int:
        """The version of ONNX's standard operators."""
        return max(int(each.version) for each in self.single.opset_import if each.domain in _STANDARD)

    @cached_property
    def weights(self) -> Mapping[str, TensorProto]:
        """The weights of the FP32 graph by name."""
        return {weight.name: weight for weight in self.single.graph.initializer}

    @cached_property
    def _half_weights(self) -> dict[str, TensorProto]:
        return {}

    def weight(self, name: str, kind: int) -> TensorProto:
        """A weight of the FP32 graph in that type, narrowed once."""
        if kind == _FULL:
            return self.weights[name]
        if name not in self._half_weights:
            self._half_weights[name] = fp16_emulation.round_to_fp16(self.weights[name])
        return self._half_weights[name]

    def beyond(self, inputs: Mapping[str, Array]) -> frozenset[str]:
        """The nodes that must be FP32 on these inputs: where a tensor is too large for FP16, its maker and readers.

        What is infinite, or as large as a mask is meant to be, is not too large.
        """
        largest = fp16_emulation.tensor_ranges(self.single, inputs)
        free = {node.name for node in self.nodes}
        return frozenset(
            node.name
            for node in self.single.graph.node
            if node.name in free
            and any(not largest.get(name, 0) <= fp16_rounding.LARGEST for name in (*node.input, *node.output))
        )

    def keeping(self, kept: Collection[str]) -> onnx.ModelProto:
        """The FP16 graph with those nodes in FP32, with their FP32 weights; what only they exchange stays FP32.

        Every tensor keeps its name where it is made, and what is cast from it is called after it.
        """
        return _converted(self, frozenset(kept)) if kept else self.half


def convert(single: onnx.ModelProto, *, keep_io: bool, check: bool = True) -> Fp16Conversion:
    """The graph in FP16, with explicit casts behind FP32 inputs and before FP32 outputs if those are to stay.

    Nodes without a name get one, and constants become weights. Weights are clipped at FP16's limits and not before;
    infinite ones stay so. Raises whatever onnx's checker raises, if it is to `check`.
    """
    named = onnx.ModelProto()
    named.CopyFrom(single)
    _name(named.graph)
    _constants_to_weights(named.graph)
    halved = Fp16Conversion(named, keep_io)
    if check:
        onnx.checker.check_model(halved.half, full_check=True)
    return halved


def _name(graph: onnx.GraphProto) -> None:
    """A name for every node that has none of its own."""
    times = Counter(node.name for node in graph.node)
    for node in graph.node:
        if not node.name or times[node.name] > 1:
            node.name = f"{node.output[0]}/{node.op_type}"


def _constants_to_weights(graph: onnx.GraphProto) -> None:
    """Floating-point constants as weights: of those, each reader can have the type it wants without a cast."""
    left = []
    for node in graph.node:
        value = _constant(node)
        if value is None:
            left.append(node)
        else:
            graph.initializer.append(value)
    del graph.node[:]
    graph.node.extend(left)


def _constant(node: onnx.NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or node.domain not in _STANDARD:
        return None
    (given,) = node.attribute
    value = helper.get_attribute_value(given)
    if given.name == "value" and value.data_type == _FULL:
        return _renamed(value, node.output[0])
    if given.name == "value_float":
        return helper.make_tensor(node.output[0], _FULL, [], [value])
    if given.name == "value_floats":
        return helper.make_tensor(node.output[0], _FULL, [len(value)], value)
    return None


def _able(node: onnx.NodeProto, types: Mapping[str, int], opset: int) -> bool:
    """Whether a node can compute in FP16: its operator can, it has no graph inside, and touches nothing but tensors."""
    if node.domain not in _STANDARD or node.op_type in _SINGLE or any(True for _ in _inside(node)):
        return False
    if not onnx.defs.has(node.op_type, opset, node.domain):
        return False
    if any(name and not types.get(name) for name in (*node.input, *node.output)):
        return False
    places = [place for place, name in enumerate(node.output) if types[name] == _FULL]
    return all(_takes_half(node, place, opset, made=True) for place in places[:1])


def _takes_half(node: onnx.NodeProto, place: int, opset: int, *, made: bool = False) -> bool:
    """Whether ONNX lets that input of a node, or that output, be FP16."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    formal = list(schema.outputs if made else schema.inputs)
    kind = formal[min(place, len(formal) - 1)].type_str
    allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
    return "tensor(float16)" in allowed.get(kind, [kind])


def _inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _read_inside(node: onnx.NodeProto) -> Iterator[str]:
    """What the graphs inside a node read, of their own or from around them."""
    for graph in _inside(node):
        for each in graph.node:
            yield from (*each.input, *_read_inside(each))
        yield from (value.name for value in graph.output)


class _Mixing:
    """The mixed graph as it grows: in which type every tensor is made, and what it is called in the other."""

    def __init__(self, source: Fp16Conversion, kept: frozenset[str]) -> None:
        self.source = source
        self.half = frozenset(node.name for node in source.nodes) - kept
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, TensorProto] = {}
        self._made: dict[str, tuple[int, str]] = {}  # by its name in the source: its type, and its name here
        self._casts: dict[tuple[str, int], str] = {}
        self._taken = set(source.types)

    def begin(self, value: onnx.ValueInfoProto, kind: int) -> None:
        """An input of the graph, in that type."""
        self._made[value.name] = kind, value.name
        value.type.tensor_type.elem_type = kind

    def end(self, value: onnx.ValueInfoProto, kind: int) -> None:
        """An output of the graph, in that type; a weight may be one."""
        value.type.tensor_type.elem_type = kind
        if value.name in self.source.weights:
            self._made[value.name] = kind, value.name
            self.weights[value.name] = self.source.weight(value.name, kind)

    def add(self, node: onnx.NodeProto, ends: Mapping[str, int]) -> None:
        """A node of the source, in the type it is to have, behind the casts it needs."""
        mine = onnx.NodeProto()
        mine.CopyFrom(node)
        half = node.name in self.half
        for place, name in enumerate(node.input):
            if self._is_float(name) and (node.op_type not in _EITHER or name not in self._made):
                fits = half and _takes_half(node, place, self.source.opset)
                mine.input[place] = self._read(name, _HALF if fits else _FULL)
            elif self._is_float(name):
                mine.input[place] = self._made[name][1]
        self._rename_inside(mine)
        if half:
            _halve_attributes(mine)
        self.nodes.append(mine)
        for place, name in enumerate(node.output):
            if self._is_float(name):
                kind = _HALF if half and _takes_half(node, place, self.source.opset, made=True) else _FULL
                end = ends.get(name, kind)
                called = name if end == kind else self._free(name, kind)
                self._made[name], mine.output[place] = (kind, called), called
                if end != kind:
                    self._casts[name, end] = self._cast(called, name, end)

    def _is_float(self, name: str) -> bool:
        return self.source.types.get(name) == _FULL

    def _read(self, name: str, kind: int) -> str:
        """What a tensor that is FP32 in the source is called in that type; a cast or a weight is added if need be."""
        if name not in self._made:
            called = name if kind == _HALF else name + fp16_emulation.FP32_SUFFIX
            self.weights.setdefault(called, _renamed(self.source.weight(name, kind), called))
            return called
        own, called = self._made[name]
        if own == kind:
            return called
        if (name, kind) not in self._casts:
            self._casts[name, kind] = self._cast(called, self._free(name, kind), kind)
        return self._casts[name, kind]

    def _rename_inside(self, node: onnx.NodeProto) -> None:
        """Graphs inside a node are FP32: what they read from around them must be so too."""
        for graph in _inside(node):
            own = {name for each in graph.node for name in each.output}
            own |= {value.name for value in (*graph.input, *graph.initializer)}
            for each in graph.node:
                for place, name in enumerate(each.input):
                    if name not in own and self._is_float(name):
                        each.input[place] = self._read(name, _FULL)
                self._rename_inside(each)
            for value in graph.output:
                if value.name not in own and self._is_float(value.name):
                    value.name = self._read(value.name, _FULL)

    def _cast(self, given: str, name: str, kind: int) -> str:
        self.nodes.append(helper.make_node("Cast", [given], [name], name, to=kind))
        return name

    def _free(self, name: str, kind: int) -> str:
        """A name that no tensor has."""
        wanted = f"{name}/{_SUFFIX[kind]}"
        while wanted in self._taken:
            wanted += "_"
        self._taken.add(wanted)
        return wanted


def _converted(source: Fp16Conversion, kept: frozenset[str]) -> onnx.ModelProto:
    """The graph with the kept nodes and those that have no FP16 form in FP32, and the others in FP16."""
    model, graph = onnx.ModelProto(), source.single.graph
    model.CopyFrom(_empty(source.single))
    mixing, kind = _Mixing(source, kept), _FULL if source.keep_io else _HALF
    mine = model.graph
    fed = [value for value in mine.input if source.types.get(value.name) == _FULL]
    given = [value for value in mine.output if source.types.get(value.name) == _FULL]
    for value in fed:
        mixing.begin(value, kind)
    for value in given:
        mixing.end(value, kind)
    for node in graph.node:
        mixing.add(node, {value.name: kind for value in given})
    mine.node.extend(mixing.nodes)
    read = {name for node in mine.node for name in (*node.input, *_read_inside(node))}
    read |= {value.name for value in mine.output}
    others = (each for each in graph.initializer if each.data_type != _FULL and each.name in read)
    mine.initializer.extend([*others, *mixing.weights.values()])
    return model


def _empty(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its nodes and weights, which are many bytes to copy."""
    graph = helper.make_graph([], model.graph.name, model.graph.input, model.graph.output)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    made.functions.extend(model.functions)
    made.producer_name, made.producer_version = model.producer_name, model.producer_version
    return made


def _halve_attributes(node: onnx.NodeProto) -> None:
    """What a node is told of types, and the numbers that it holds itself."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FULL:
            attribute.i = _HALF
        elif attribute.HasField("t") and attribute.t.data_type == _FULL:
            attribute.t.CopyFrom(fp16_emulation.round_to_fp16(attribute.t))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", helper.make_tensor("value", _HALF, [1], [0])))


def _renamed(weight: TensorProto, name: str) -> TensorProto:
    if weight.name == name:
        return weight
    renamed = TensorProto()
    renamed.CopyFrom(weight)
    renamed.name = name
    return renamed
