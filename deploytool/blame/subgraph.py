"""Extracts a part of a graph as a graph of its own, with the inputs that it has in the whole graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from deploytool.blame import ort_trace
from deploytool.data.golden import Arrays
from deploytool.rewrites.graph import storage

Array = npt.NDArray[Any]
Nodes = Sequence[onnx.NodeProto]


@dataclass(frozen=True)
class EvaluatedGraph:
    """A graph with the value of every tensor; `nodes` are those that depend on its inputs, in topological order."""

    model: onnx.ModelProto
    values: Arrays
    nodes: Nodes

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the graph's inputs."""
        return tuple(value.name for value in self.model.graph.input if value.name in self.values)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the graph's outputs."""
        return tuple(output.name for output in self.model.graph.output)

    @property
    def fixed(self) -> Arrays:
        """The values that a fault in the arithmetic cannot change: inputs and tensors that are not floating-point."""
        return {name: value for name, value in self.values.items() if name in self.inputs or name not in self.floats}

    @property
    def floats(self) -> frozenset[str]:
        """The names of the floating-point tensors."""
        return frozenset(name for name, value in self.values.items() if value.dtype.kind == "f")


@dataclass(frozen=True)
class Subgraph:
    """The nodes that compute one tensor as a model, and its inputs in the order in which it declares them."""

    model: onnx.ModelProto
    inputs: Arrays
    nodes: Nodes


def evaluate(graph: Path, inputs: Arrays) -> EvaluatedGraph:
    """A graph and the value of each of its tensors for these inputs, computed without graph optimisation."""
    model = storage.load(graph)
    arrays = ort_trace.cast_inputs(model, inputs)
    results = ort_trace.all_tensors(storage.load(graph), arrays)
    tensors = {name: value for name, value in results.items() if isinstance(value, np.ndarray)}
    return EvaluatedGraph(model, {**arrays, **tensors}, ort_trace.input_dependent_nodes(model.graph))


def extract(whole: EvaluatedGraph, nodes: Nodes, tensor: str, available: Arrays) -> Subgraph | None:
    """Those of the nodes that compute a tensor, as a graph; None if they need a tensor that is not `available`.

    Constants become initializers. So do the sizes that the whole graph computes from the shapes of its inputs, because
    the shapes of the subgraph are fixed.
    """
    needed = _needed_nodes(nodes, tensor)
    produced = {name for node in needed for name in node.output}
    if tensor not in produced:
        return None
    weights = {weight.name: weight for weight in whole.model.graph.initializer}
    constants = set(whole.values) - {name for node in whole.nodes for name in node.output} - set(whole.inputs)
    sizes = {name for name, value in available.items() if value.dtype.kind != "f" and name not in whole.inputs}
    initializers, inputs = [], {}
    for name in _external_tensors(needed, produced):
        if name in weights:
            initializers.append(weights[name])
        elif name in constants or name in sizes:
            initializers.append(numpy_helper.from_array(np.asarray(whole.values[name]), name))
        elif name in available:
            inputs[name] = np.ascontiguousarray(available[name])
        else:
            return None
    declared, output = [_value_info(*each) for each in inputs.items()], _value_info(tensor, whole.values[tensor])
    graph = helper.make_graph(needed, "excerpt", declared, [output], initializers)
    model = helper.make_model(graph, opset_imports=whole.model.opset_import, ir_version=whole.model.ir_version)
    model.functions.extend(whole.model.functions)
    return Subgraph(model, inputs, needed)


def _external_tensors(nodes: Nodes, produced: set[str]) -> list[str]:
    """The tensors that nodes consume and do not produce, each once."""
    names = (name for node in nodes for name in consumed_tensors(node) if name and name not in produced)
    return list(dict.fromkeys(names))


def minimize(nodes: Nodes, extract_if_wrong: Callable[[Nodes], Subgraph | None]) -> Subgraph | None:
    """The smallest subgraph that still shows a mismatch, found by removing ever smaller parts.

    `extract_if_wrong` returns the subgraph of some nodes if it shows the mismatch. None if all nodes do not show it.
    """
    best = extract_if_wrong(nodes)
    size = len(nodes)
    while best is not None and size > 1:
        size = -(-size // 2)
        start = 0
        while start < len(best.nodes):
            smaller = extract_if_wrong([*best.nodes[:start], *best.nodes[start + size :]])
            if smaller is not None:
                best = smaller
            else:
                start += size
    return best


def consumed_tensors(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node consumes, including those that its subgraphs (If, Loop) take from outside."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, attribute.g):
            internal = {name for inner in graph.node for name in inner.output}
            internal |= {value.name for value in (*graph.input, *graph.initializer)}
            names += [name for inner in graph.node for name in consumed_tensors(inner) if name not in internal]
    return names


def _needed_nodes(nodes: Nodes, tensor: str) -> Nodes:
    needed_tensors, needed = {tensor}, []
    for node in reversed(nodes):
        if needed_tensors & set(node.output):
            needed_tensors |= set(consumed_tensors(node))
            needed.append(node)
    return needed[::-1]


def _value_info(name: str, value: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
