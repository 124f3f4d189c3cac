"""Floors and epsilons that FP16 does not have: numbers put there against log(0) and x / 0, which would become others.

The smallest number of FP16 is 6e-8, and below 6e-6 its steps are wider than a hundredth. Where such a number is a limit
or is added, what it guards is computed in FP32: from where the small numbers are made to where they are small no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from deploytool import fp16_rounding
from deploytool.rewrites.graph.editable import EditableGraph, attributes

_COARSE = 0.01  # relative: a number that FP16 moves by more is another
_DEPTH = 8  # nodes to follow, each way

_GUARDING = (
    *("Add", "Sub", "Max", "Min", "Clip", "Where"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
)
_MOVING = (
    *("Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile"),
    *("Transpose", "Unsqueeze"),
)
_POINTWISE = ("Abs", "Add", "Clip", "Concat", "ConstantOfShape", "Div", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal")
_SHRINKING = (
    *(*_POINTWISE, "Sqrt", "Sub", "Where"),
    *("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"),
)  # what small numbers are made by, and stay small in
_ENDING = ("Log", "Div", "Mul", "ReduceLogSum", "ReduceLogSumExp")  # what makes numbers of usual size of them


@dataclass(frozen=True)
class SmallConstant:
    """A node with a number that FP16 does not have, and the nodes around it that must be FP32 with it."""

    node: str
    number: float
    around: tuple[str, ...]


def find(model: onnx.ModelProto, among: Sequence[str]) -> list[SmallConstant]:
    """The guards of a graph whose nodes have names, as far as the nodes `among` go, in its order."""
    draft, found = EditableGraph(model), list[SmallConstant]()
    for node in draft.nodes:
        number = _lost(node, draft)
        if number is not None and node.name in among:
            behind = [node, *_behind(node, draft)]
            around = {each.name for each in (*behind, *_before(behind, draft))}
            found.append(SmallConstant(node.name, number, tuple(each for each in among if each in around)))
    return found


def _lost(node: NodeProto, draft: EditableGraph) -> float | None:
    """The number that a node guards with, if FP16 does not have it."""
    if node.op_type == "BatchNormalization":
        return _lost_variance(node, draft)
    if node.op_type not in _GUARDING:
        return None
    for name in node.input:
        number = _number(name, draft) if name else None
        if number and _moved(number) > _COARSE * abs(number):
            return number
    return None


def _number(name: str, draft: EditableGraph) -> float | None:
    """The one number that a tensor holds all over, if it is known to hold one."""
    for _ in range(_DEPTH):
        maker = draft.producer(name)
        array = draft.constant(name)
        if array is None and maker and maker.op_type == "ConstantOfShape":
            array = numpy_helper.to_array(attributes(maker).get("value", numpy_helper.from_array(np.zeros(1))))
        if array is not None:
            alike = array.size and array.dtype == np.float32 and bool((array == array.flat[0]).all())
            return float(array.flat[0]) if alike else None
        if maker is None or maker.op_type not in _MOVING:
            return None
        name = maker.input[0]
    return None


def _lost_variance(node: NodeProto, draft: EditableGraph) -> float | None:
    """The variance of a batch norm that FP16 moves the most, if that matters beside its epsilon."""
    given = draft.constant(node.input[4])
    if given is None or not given.size:
        return None
    variance = given.astype(np.float64)
    epsilon = float(attributes(node).get("epsilon", 1e-5))
    moved = np.abs(fp16_rounding.nearest(variance).astype(np.float64) - variance) / (variance + epsilon)
    place = int(moved.argmax())
    return float(variance[place]) if moved[place] > _COARSE else None


def _moved(number: float) -> float:
    """How far FP16 moves a small number; what is too large for FP16 guards nothing."""
    return abs(float(fp16_rounding.nearest(number)) - number) if abs(number) < 1.0 else 0.0


def _before(nodes: Sequence[NodeProto], draft: EditableGraph) -> list[NodeProto]:
    """The nodes that make what these read, back to the first that makes numbers of any size."""
    found, level = dict[str, NodeProto](), list(nodes)
    for _ in range(_DEPTH):
        makers = [draft.producer(name) for each in level for name in each.input if name]
        level = [each for each in makers if each and each.op_type in (*_SHRINKING, *_MOVING) and each.name not in found]
        found |= {each.name: each for each in level}
    return list(found.values())


def _behind(node: NodeProto, draft: EditableGraph) -> list[NodeProto]:
    """The nodes in which the numbers stay small, and the first that makes others of them."""
    found, level = dict[str, NodeProto](), [node]
    for _ in range(_DEPTH):
        readers = [each for one in level for name in one.output for each in draft.consumers(name)]
        readers = [each for each in readers if each.name not in found]
        ends = [each for each in readers if each.op_type in _ENDING]
        level = [each for each in readers if each.op_type in (*_SHRINKING, *_MOVING) and each not in ends]
        found |= {each.name: each for each in (*ends, *level)}
    return list(found.values())
