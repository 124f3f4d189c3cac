"""Finds the sums inside norms, lengths and logarithms of probabilities, which must be computed in FP32.

A square exceeds FP16 from 256 on, an exponential from 11 on, and a sum of small ones may vanish. A norm as one operator
(LayerNormalization, InstanceNormalization, Softmax …) has its internal sums in FP32 in every runtime, also where its
tensors are FP16. A norm that is written as several operators gets the same here: FP32 from the squares to the division.
Some operators are several layers in TensorRT, in the type of their input: ReduceL2 is a product, a sum and a root,
LogSoftmax is the logarithm of a softmax. They are kept in FP32 as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import onnx
from onnx import NodeProto

from deploytool.precision.positional import MOVING, PositionalGraph
from deploytool.rewrites.graph.editable import EditableGraph

_SPLIT = (
    *("GlobalLpPool", "LogSoftmax", "LpNormalization", "LpPool", "MeanVarianceNormalization"),
    *("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "Softplus"),
)  # operators that TensorRT's parser imports as several layers, one of which overflows or underflows
_LENGTHS = ("GlobalLpPool", "LpPool", "ReduceL2")  # of these: roots of sums
_SUMS = ("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum")
_SQUARED = ("Abs", "Add", "Clip", "Max", "Min", "Neg", "Sub")  # operators whose results have the range of the sum
_GUARDING = ("Add", "Clip", "Max", "Min")  # with a constant: operators that keep a length from zero
_ENDING = (
    *("ArgMax", "ArgMin", "Div", "Exp", "Log", "Mul", "Softmax"),
)  # operators that turn a sum or a length into values of usual size
_DEPTH = 8  # nodes to follow from a sum, and between a summand and its sum

IsEnd = Callable[[NodeProto, str], bool]  # of a node that reads a tensor


def find(model: onnx.ModelProto, among: Sequence[str]) -> tuple[frozenset[str], ...]:
    """The nodes of each internal sum of a graph whose nodes are named, restricted to the nodes `among`."""
    graph, found = PositionalGraph(model), list[frozenset[str]]()
    for node in graph.nodes:
        if node.op_type in _SPLIT:
            members = _split(node, graph)
        else:
            members = _mean(node, graph) if node.op_type == "ReduceSum" else _around(node, graph)
        names = frozenset(member.name for member in members).intersection(among)
        if names:
            found.append(names)
    return tuple(found)


def is_summand(node: NodeProto, graph: EditableGraph) -> bool:
    """Whether a node computes squares, higher powers or exponentials, which leave FP16's range before their sum."""
    if node.op_type == "Pow":
        exponent = graph.constant(node.input[1])
        return exponent is not None and exponent.size == 1 and float(exponent.flat[0]) >= 2
    return node.op_type == "Exp" or (node.op_type == "Mul" and node.input[0] == node.input[1])


def _split(node: NodeProto, graph: PositionalGraph) -> list[NodeProto]:
    """An operator of several layers, with the nodes after it if its result is a sum or a length."""
    return [node, *_after(node, graph)] if node.op_type in (*_LENGTHS, "ReduceSumSquare") else [node]


def _around(node: NodeProto, graph: PositionalGraph) -> list[NodeProto]:
    """A summand, what is between it and the sums of it, these sums, and the nodes after them; empty for other nodes."""
    if not is_summand(node, graph):
        return []
    members = [node]
    for path in _paths(node.output[0], graph, _DEPTH, lambda reader, _: reader.op_type in _SUMS):
        members += [*path, *_after(path[-1], graph)]
    return members if len(members) > 1 else []


def _mean(total: NodeProto, graph: PositionalGraph) -> list[NodeProto]:
    """A sum, its division by a count, and what is between them; or the division by it. Empty for other sums."""
    paths = list(_paths(total.output[0], graph, _DEPTH, lambda node, tensor: _divides(node, tensor, graph)))
    return [total, *(node for path in paths for node in path)] if paths else []


def _divides(node: NodeProto, tensor: str, graph: PositionalGraph) -> bool:
    return node.op_type == "Div" or _has_constant(node, tensor, graph, ("Mul",))


def _paths(tensor: str, graph: PositionalGraph, depth: int, is_end: IsEnd) -> Iterator[list[NodeProto]]:
    """The nodes from a tensor to each end, over operators that only move values, scale them or limit them."""
    for reader in graph.consumers(tensor) if depth else ():
        if is_end(reader, tensor):
            yield [reader]
        elif reader.op_type in (*MOVING, "Pad") or _has_constant(reader, tensor, graph, ("Div", "Mul", *_GUARDING)):
            yield from ([reader, *path] for path in _paths(reader.output[0], graph, depth - 1, is_end))


def _after(total: NodeProto, graph: PositionalGraph) -> list[NodeProto]:
    """The nodes after a sum up to those that end its range, with the squares that are subtracted from it."""
    found, level = dict[str, NodeProto](), [(name, total.op_type in _LENGTHS) for name in total.output]
    for _ in range(_DEPTH):
        reads = [(node, name, rooted) for name, rooted in level for node in graph.consumers(name)]
        reads = [read for read in reads if read[0].name not in found and _belongs(*read, graph)]
        found |= {node.name: node for node, _, _ in reads}
        on = [(node, rooted or _is_root(node, graph)) for node, name, rooted in reads if _goes_on(node, name, graph)]
        level = [(name, rooted) for node, rooted in on for name in node.output]
    return [*found.values(), *_subtracted(found.values(), graph)]


def _belongs(node: NodeProto, tensor: str, rooted: bool, graph: PositionalGraph) -> bool:
    """Whether a node that reads a sum, or with `rooted` the root of one, must compute in FP32."""
    if node.op_type in (*MOVING, *_ENDING, "Reciprocal") or _is_root(node, graph):
        return True
    return _has_constant(node, tensor, graph, _GUARDING) if rooted else node.op_type in _SQUARED


def _goes_on(node: NodeProto, tensor: str, graph: PositionalGraph) -> bool:
    """Whether the result of a node still has the range of the sum that it reads."""
    return node.op_type not in _ENDING or _has_constant(node, tensor, graph, ("Mul", "Div"))


def _is_root(node: NodeProto, graph: PositionalGraph) -> bool:
    exponent = graph.constant(node.input[1]) if node.op_type == "Pow" else None
    return node.op_type == "Sqrt" or (exponent is not None and exponent.size == 1 and abs(float(exponent.flat[0])) < 1)


def _has_constant(node: NodeProto, tensor: str, graph: PositionalGraph, operators: Sequence[str]) -> bool:
    """Whether a node is one of these operators on a tensor, and on constants or sizes."""
    others = [name for name in node.input if name and name != tensor]
    return node.op_type in operators and graph.positional.issuperset(others)


def _subtracted(members: Iterable[NodeProto], graph: PositionalGraph) -> list[NodeProto]:
    """The squares, and the means in them, that the subtractions among these nodes read: E[x²] − E[x]²."""
    names = [name for node in members if node.op_type == "Sub" for name in node.input]
    squares = [maker for maker in map(graph.producer, names) if maker is not None and is_summand(maker, graph)]
    means = [graph.producer(square.input[0]) for square in squares]
    return [*squares, *(mean for mean in means if mean is not None and mean.op_type in _SUMS)]
