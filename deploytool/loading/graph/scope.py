"""A graph or subgraph as a module: its constants are tensors of the module, its nodes are modules in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import nn

from deploytool.errors import StageFailed
from deploytool.loading.graph import constants, preparation, shape_arithmetic
from deploytool.loading.graph.element_types import UNKNOWN, Value
from deploytool.loading.graph.node import Node
from deploytool.loading.graph.op import Op
from deploytool.loading.module import fp64

_FP16_RANGE = (6.2e-5, 65504.0)  # the smallest normal number and the largest one
_STATISTICS = {3: "running_mean", 4: "running_var"}  # inputs of BatchNormalization, which graphs fold into weights


@dataclass(frozen=True)
class GraphContext:
    """What the scopes of one graph share: the opset of each domain, and the element types of all tensors."""

    opsets: Mapping[str, int]
    types: Mapping[str, int]

    def version(self, node: onnx.NodeProto) -> int:
        """The opset of a node's domain; raises StageFailed if the graph imports none."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in self.opsets:
            problem = f"the graph uses {node.op_type} of the domain {domain or 'ai.onnx'}, but imports no opset of it"
            raise StageFailed(problem, "add the domain to opset_import, or export the graph again")
        return self.opsets[domain]


@dataclass(frozen=True)
class Step:
    """One node in the order of computation; after it the tensors `released` are needed no more."""

    attribute: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    released: tuple[str, ...]


class Scope(nn.Module):
    """Computes a graph node by node.

    `initializer_names` and `node_names` give the name in the graph for each attribute of the module; a node without a
    name goes by its first output. Floating-point constants are parameters without gradient, others buffers. Scalars
    beyond FP16's range (epsilons, masks) and numbers that sizes depend on are neither: FP16 graphs keep them in FP32,
    so they are not rounded. Inside `fp64.run()` a node gets its constants in FP64, which last as long as it runs.
    """

    widens_itself = True  # see `fp64`: all constants of the graph at once would be many

    def __init__(self, graph: onnx.GraphProto, context: GraphContext) -> None:
        super().__init__()
        self.initializer_names: dict[str, str] = {}
        self.node_names: dict[str, str] = {}
        self._attribute_of: dict[str, str] = {}  # of a constant
        self._fixed: dict[str, Value] = {}  # constants that are not in the state of the module
        values = dict(_constants(graph))
        shape_nodes = shape_arithmetic.find(graph, values, context.types)
        self._add_constants(graph, values, shape_arithmetic.constants_of_sizes(graph, shape_nodes))
        initialized = {*self._attribute_of, *self._fixed}
        self.input_names = tuple(value.name for value in graph.input if value.name not in initialized)
        self.output_names = tuple(value.name for value in graph.output)
        self.steps = self._add_nodes(graph, context, shape_nodes)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Converts or moves all tensors, as `double()` and `to()` do; torch calls it."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch gives it no types
        for name, value in self._fixed.items():
            self._fixed[name] = fn(value) if isinstance(value, torch.Tensor) else value
        return self

    def compute(self, inputs: Sequence[Value], captured: Mapping[str, Value]) -> list[Value]:
        """The outputs of the graph in order; `captured` are the tensors that it reads from the graphs around it."""
        values: dict[str, Value] = {**captured, **dict(zip(self.input_names, inputs, strict=True))}
        for step in self.steps:
            result = self._modules[step.attribute](*(self._value(name, values) for name in step.inputs))  # type: ignore[misc]
            results = result if isinstance(result, tuple) else (result,)
            values.update({name: value for name, value in zip(step.outputs, results, strict=False) if name})
            del result, results
            for name in step.released:
                values.pop(name, None)
        return [self._value(name, values) for name in self.output_names]

    def _value(self, name: str, values: Mapping[str, Value]) -> Value:
        if not name:
            return None
        if name in values:
            return values[name]
        value = self._fixed[name] if name in self._fixed else getattr(self, self._attribute_of[name])
        if not fp64.is_running() or not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        with torch._C.DisableTorchFunction():
            return value.double()

    def _add_constants(self, graph: onnx.GraphProto, values: Mapping[str, Value], sizes: Collection[str]) -> None:
        statistics = {
            name: _STATISTICS[number]
            for node in graph.node
            if node.op_type == "BatchNormalization"
            for number, name in enumerate(node.input)
            if number in _STATISTICS
        }
        for name, value in values.items():
            if _is_kept_out(value, is_size=name in sizes):
                self._fixed[name] = value
                continue
            ending = statistics.get(name, "")
            named = name if name.endswith(ending) else f"{name}_{ending}"
            attribute = constants.attribute_name(named, self, self.initializer_names)
            if value.is_floating_point() and not ending:
                self.register_parameter(attribute, nn.Parameter(value, requires_grad=False))
            else:
                self.register_buffer(attribute, value)
            self.initializer_names[attribute] = name
            self._attribute_of[name] = attribute

    def _add_nodes(
        self, graph: onnx.GraphProto, context: GraphContext, shape_nodes: Collection[int]
    ) -> tuple[Step, ...]:
        known = {*self._attribute_of, *self._fixed}
        nodes = [node for node in graph.node if not _is_constant(node)]
        shaped = {id(node) for index, node in enumerate(graph.node) if index in shape_nodes}
        steps = []
        reads = [_reads(node) for node in nodes]
        last = {name: index for index, names in enumerate(reads) for name in names}
        kept = {*known, *self.output_names}
        for index, node in enumerate(nodes):
            label = node.name or next((name for name in node.output if name), node.op_type)
            attribute = constants.attribute_name(label, self, self.node_names)
            self.add_module(attribute, _node(node, context, is_shape_arithmetic=id(node) in shaped))
            self.node_names[attribute] = label
            unread = [name for name in node.output if name and name not in last]
            done = {name for name in reads[index] if last[name] == index} | set(unread)
            steps.append(Step(attribute, tuple(reads[index]), tuple(node.output), tuple(sorted(done - kept))))
        return tuple(steps)


class Body(Scope):
    """A subgraph of a control-flow node; its node calls it with its inputs and the values of its outer names."""

    def __init__(self, graph: onnx.GraphProto, context: GraphContext, outer: Sequence[str]) -> None:
        super().__init__(graph, context)
        self.outer = tuple(outer)

    def forward(self, inputs: Sequence[Value], captured: Sequence[Value]) -> list[Value]:
        """The outputs in order, for inputs and the values of `outer` in order."""
        return self.compute(inputs, dict(zip(self.outer, captured, strict=True)))


def _node(node: onnx.NodeProto, context: GraphContext, *, is_shape_arithmetic: bool) -> Node:
    """The module of a node."""
    outer = _captured(node)
    bodies = {name: Body(graph, context, outer) for name, graph in preparation.subgraphs(node).items()}
    kinds = [tuple(context.types.get(name, UNKNOWN) for name in names) for names in (node.input, node.output)]
    own = onnx.NodeProto()  # a part of the model's message would keep all of it in memory
    own.CopyFrom(node)
    op = Op(own, context.version(node), kinds[0], kinds[1], bodies, len(outer))
    return Node(op, [*bodies.items()], is_shape_arithmetic=is_shape_arithmetic)


def _captured(node: onnx.NodeProto) -> list[str]:
    """The tensors that the subgraphs of a node read from the graphs around them."""
    names = [name for graph in preparation.subgraphs(node).values() for name in preparation.free_names(graph)]
    return list(dict.fromkeys(names))


def _reads(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node gets: its inputs, without omitted ones at the end unless it captures others."""
    return [*node.input, *_captured(node)]


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, Value]]:
    yield from ((tensor.name, constants.read(tensor)) for tensor in graph.initializer)
    yield from ((tensor.values.name, constants.read_sparse(tensor)) for tensor in graph.sparse_initializer)
    yield from ((node.output[0], constants.of_node(node)) for node in graph.node if _is_constant(node))


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _is_kept_out(value: Any, *, is_size: bool) -> bool:
    """Whether a constant is no part of the module's state: a string, a size, or a scalar that FP16 cannot represent."""
    if not isinstance(value, torch.Tensor) or (is_size and value.is_floating_point()):
        return True
    if value.numel() != 1 or not value.is_floating_point():
        return False
    size = abs(value.item())
    return not (size == 0 or _FP16_RANGE[0] <= size <= _FP16_RANGE[1])
