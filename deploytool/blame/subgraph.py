"""An excerpt of a graph: a few of its nodes as a graph of their own, fed with what they were fed in the whole."""

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

Array = npt.NDArray[Any]
Nodes = Sequence[onnx.NodeProto]


@dataclass(frozen=True)
class EvaluatedGraph:
    """A graph with the value of every tensor in it; `nodes` are those that depend on its inputs, in their order."""

    model: onnx.ModelProto
    values: Arrays
    nodes: Nodes

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the graph is given."""
        return tuple(value.name for value in self.model.graph.input if value.name in self.values)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the graph gives."""
        return tuple(output.name for output in self.model.graph.output)

    @property
    def fixed(self) -> Arrays:
        """What needs no graph to be known: the inputs, and what is no floating-point number."""
        return {name: value for name, value in self.values.items() if name in self.inputs or name not in self.floats}

    @property
    def floats(self) -> frozenset[str]:
        """The tensors that hold floating-point numbers."""
        return frozenset(name for name, value in self.values.items() if value.dtype.kind == "f")


@dataclass(frozen=True)
class Subgraph:
    """The fewest of the nodes asked for that make one tensor, and the inputs of that graph in their order."""

    model: onnx.ModelProto
    inputs: Arrays
    nodes: Nodes


def evaluate(graph: Path, inputs: Arrays) -> EvaluatedGraph:
    """A graph and what each of its tensors is on these inputs, with nothing optimised."""
    given = ort_trace.cast_inputs(onnx.load(graph), inputs)
    model = onnx.load(graph)
    made = ort_trace.all_tensors(onnx.load(graph), given)
    arrays = {name: value for name, value in made.items() if isinstance(value, np.ndarray)}
    return EvaluatedGraph(model, {**given, **arrays}, ort_trace.input_dependent_nodes(model.graph))


def extract(whole: EvaluatedGraph, nodes: Nodes, tensor: str, given: Arrays) -> Subgraph | None:
    """The nodes that make a tensor, and nothing they do not need; None if they need what is not `given`.

    What depends on no input becomes a weight. So do the sizes that the whole graph computes from the shape of its
    inputs, for here the shape is fixed.
    """
    kept = _needed(nodes, tensor)
    made = {name for node in kept for name in node.output}
    weights = {weight.name: weight for weight in whole.model.graph.initializer}
    constant = set(whole.values) - {name for node in whole.nodes for name in node.output} - set(whole.inputs)
    held, fed = [], {}
    for name in dict.fromkeys(name for node in kept for name in consumed_tensors(node) if name and name not in made):
        if name in weights:
            held.append(weights[name])
        elif name in constant or (name in given and given[name].dtype.kind != "f" and name not in whole.inputs):
            held.append(numpy_helper.from_array(np.asarray(whole.values[name]), name))
        elif name in given:
            fed[name] = np.ascontiguousarray(given[name])
        else:
            return None
    if tensor not in made:
        return None
    inputs, (output,) = [_declared(*each) for each in fed.items()], [_declared(tensor, whole.values[tensor])]
    graph = helper.make_graph(kept, "excerpt", inputs, [output], held)
    model = helper.make_model(graph, opset_imports=whole.model.opset_import, ir_version=whole.model.ir_version)
    model.functions.extend(whole.model.functions)
    return Subgraph(model, fed, kept)


def minimize(nodes: Nodes, kept: Callable[[Nodes], Subgraph | None]) -> Subgraph | None:
    """The smallest excerpt that is `kept`, found by leaving out ever smaller parts; None if all nodes are not."""
    best = kept(nodes)
    size = len(nodes)
    while best is not None and size > 1:
        size = -(-size // 2)
        start = 0
        while start < len(best.nodes):
            smaller = kept([*best.nodes[:start], *best.nodes[start + size :]])
            if smaller is not None:
                best = smaller
            else:
                start += size
    return best


def consumed_tensors(node: onnx.NodeProto) -> list[str]:
    """The tensors a node takes, those that a branch or a loop inside it takes from outside included."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, attribute.g):
            own = {name for inner in graph.node for name in inner.output}
            own |= {each.name for each in (*graph.input, *graph.initializer)}
            names += [name for inner in graph.node for name in consumed_tensors(inner) if name not in own]
    return names


def _needed(nodes: Nodes, tensor: str) -> Nodes:
    wanted, kept = {tensor}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(consumed_tensors(node))
            kept.append(node)
    return kept[::-1]


def _declared(name: str, value: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
