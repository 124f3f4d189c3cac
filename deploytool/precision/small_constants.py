"""Finds small constants that FP16 cannot represent: epsilons and lower limits that guard against log(0) and x / 0.

The smallest FP16 number is 6e-8, and below 6e-6 its relative steps exceed 1 %; BF16 has the range of FP32. The nodes
around such a constant must compute in FP32: from where the small values are produced to where they are no longer small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from deploytool.backends.narrow_floats import NarrowFloat
from deploytool.precision.internal_sums import is_summand
from deploytool.precision.positional import MOVING
from deploytool.rewrites.graph.editable import EditableGraph, attributes

_COARSE = 0.01  # largest relative rounding error at which a constant still guards
_DEPTH = 8  # nodes to follow in each direction

_GUARDING = (
    *("Add", "Sub", "Max", "Min", "Clip", "Where"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
)
_POINTWISE = ("Abs", "Add", "Clip", "Concat", "ConstantOfShape", "Div", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal")
_SHRINKING = (
    *(*_POINTWISE, "Sqrt", "Sub", "Where"),
    *("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"),
)  # operators whose results may be small
_ENDING = (
    "Log",
    "Div",
    "Mul",
    "ReduceLogSum",
    "ReduceLogSumExp",
)  # operators that turn small values into values of usual size


@dataclass(frozen=True)
class SmallConstant:
    """A node with a constant that the narrow type cannot represent, and the nodes around it that must be FP32."""

    node: str
    number: float
    around: tuple[str, ...]


def find(model: onnx.ModelProto, among: Sequence[str], narrow: NarrowFloat) -> list[SmallConstant]:
    """The small constants of a graph whose nodes are named, restricted to the nodes `among`, in graph order."""
    graph, constants = EditableGraph(model), list[SmallConstant]()
    for node in graph.nodes:
        number = _lost_constant(node, graph, narrow)
        if number is not None and node.name in among:
            downstream = [node, *_downstream(node, graph)]
            around = {neighbour.name for neighbour in (*downstream, *_upstream(downstream, graph))}
            constants.append(SmallConstant(node.name, number, tuple(name for name in among if name in around)))
    return constants


def _lost_constant(node: NodeProto, graph: EditableGraph, narrow: NarrowFloat) -> float | None:
    """The constant with which a node guards, if the narrow type cannot represent it."""
    if node.op_type == "BatchNormalization":
        return _lost_variance(node, graph, narrow)
    if node.op_type not in _GUARDING:
        return None
    for name in node.input:
        number = _constant_value(name, graph) if name else None
        if number and _rounding_error(number, narrow) > _COARSE * abs(number):
            return number
    return None


def _constant_value(name: str, graph: EditableGraph) -> float | None:
    """The value of a tensor whose elements are all one known constant."""
    for _ in range(_DEPTH):
        maker = graph.producer(name)
        array = graph.constant(name)
        if array is None and maker and maker.op_type == "ConstantOfShape":
            array = numpy_helper.to_array(attributes(maker).get("value", numpy_helper.from_array(np.zeros(1))))
        if array is not None:
            uniform = array.size and array.dtype == np.float32 and bool((array == array.flat[0]).all())
            return float(array.flat[0]) if uniform else None
        if maker is None or maker.op_type not in MOVING:
            return None
        name = maker.input[0]
    return None


def _lost_variance(node: NodeProto, graph: EditableGraph, narrow: NarrowFloat) -> float | None:
    """The variance of a batch norm with the largest rounding error, if that matters beside its epsilon."""
    stored = graph.constant(node.input[4])
    if stored is None or not stored.size:
        return None
    variance = stored.astype(np.float64)
    epsilon = float(attributes(node).get("epsilon", 1e-5))
    errors = np.abs(narrow.nearest(variance).astype(np.float64) - variance) / (variance + epsilon)
    worst = int(errors.argmax())
    return float(variance[worst]) if errors[worst] > _COARSE else None


def _rounding_error(number: float, narrow: NarrowFloat) -> float:
    """The rounding error of a constant below 1; larger constants guard nothing."""
    return abs(float(narrow.nearest(number)) - number) if abs(number) < 1.0 else 0.0


def _upstream(nodes: Sequence[NodeProto], graph: EditableGraph) -> list[NodeProto]:
    """The nodes upstream of these, back to the first whose results are not small.

    The factors of a product are not small where the product is: FP16 represents 1e-4, and not 1e-8. Nor is what is
    divided by a guarded value, unless it is a sum of products as well.
    """
    found, level = dict[str, NodeProto](), list(nodes)
    for _ in range(_DEPTH):
        producers = [producer for consumer in level for producer in _small_operands(consumer, graph)]
        level = [node for node in producers if _keeps_small(node) and node.name not in found]
        found |= {node.name: node for node in level}
    return list(found.values())


def _small_operands(node: NodeProto, graph: EditableGraph) -> list[NodeProto]:
    """The producers of the operands that are small where the result of a node is, or in a quotient its divisor."""
    if node.op_type == "ReduceL2" or is_summand(node, graph):
        return []
    producers = [producer for producer in map(graph.producer, filter(None, node.input)) if producer is not None]
    is_product = node.op_type in ("Mul", "Div") and all(graph.constant(name) is None for name in node.input)
    return [node for node in producers if node.op_type.startswith("Reduce")] if is_product else producers


def _downstream(node: NodeProto, graph: EditableGraph) -> list[NodeProto]:
    """The nodes downstream in which values stay small, and the first that ends this."""
    found, level = dict[str, NodeProto](), [node]
    for _ in range(_DEPTH):
        consumers = [reader for producer in level for name in producer.output for reader in graph.consumers(name)]
        consumers = [reader for reader in consumers if reader.name not in found]
        ends = [reader for reader in consumers if reader.op_type in _ENDING]
        level = [reader for reader in consumers if _keeps_small(reader) and reader not in ends]
        found |= {reader.name: reader for reader in (*ends, *level)}
    return list(found.values())


def _keeps_small(node: NodeProto) -> bool:
    return node.op_type in (*_SHRINKING, *MOVING)
