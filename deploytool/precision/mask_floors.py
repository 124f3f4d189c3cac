"""Gives attention masks of the lowest float the meaning in FP16 that they have in FP32: they absorb the scores.

The lowest float plus a score is the lowest float, so a query that sees no key weighs all keys alike. FP16 has -65504,
which absorbs no score beyond 16: the sum is minus infinity, or is computed in FP32 inside a fused attention and still
has the score. A lower limit after the sum restores the meaning in every arithmetic. TensorRT's fused attention accepts
it; a softmax in FP32 or a selection instead of the sum it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from deploytool.backends import mask_values
from deploytool.rewrites.graph import weights

_FLOOR = -32768.0  # far from any score, and the exponential of the difference is zero
_ABSORBING = 1e30  # a mask of this magnitude plus any score is the mask


class _Masking(IntEnum):
    """How often an absorbing mask was added to what a tensor holds."""

    NONE = 0
    MASK = 1  # the mask itself
    ONCE = 2
    TWICE = 3  # minus infinity where both masks are, which is another weight than where one is


def add(model: onnx.ModelProto) -> None:
    """Puts a lower limit before each softmax of scores to which one finite mask was added; changes the graph."""
    reached = _softmaxes(model.graph, [name for name, value in mask_values.find(model) if _absorbs(value)])
    if not reached:
        return
    names = {name for node in model.graph.node for name in (node.name, *node.output)}
    names |= {weight.name for weight in model.graph.initializer}
    floor, nodes = _unused("mask_floor", names), list[NodeProto]()
    model.graph.initializer.append(numpy_helper.from_array(np.array(_FLOOR, np.float32), floor))
    for node in model.graph.node:
        if node.name in reached:
            limited = _unused(f"{node.name}/Max", names)
            nodes.append(helper.make_node("Max", [node.input[0], floor], [limited], limited))
            node.input[0] = limited
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _absorbs(mask: TensorProto) -> bool:
    values = weights.values(mask)
    return bool((np.isfinite(values) & (values <= -_ABSORBING)).any())


def _softmaxes(graph: onnx.GraphProto, masks: list[str]) -> set[str]:
    """The names of the softmaxes of scores to which one of these masks was added."""
    found, states = set[str](), dict.fromkeys(masks, _Masking.MASK)
    for node in graph.node if masks else ():
        state = _state(node, states)
        if node.op_type == "Softmax" and state is _Masking.ONCE:
            found.add(node.name)
        elif state and node.op_type in (*mask_values.APPLYING, *mask_values.MOVING, "Mul"):
            states |= dict.fromkeys(node.output, state)
    return found


def _state(node: NodeProto, states: Mapping[str, _Masking]) -> _Masking:
    known = [states[name] for name in node.input if name in states]
    largest = max(known, default=_Masking.NONE)
    if node.op_type in ("Add", "Sub"):
        return _Masking.TWICE if len(known) > 1 else max(largest, _Masking.ONCE) if known else _Masking.NONE
    return min(largest, _Masking.ONCE) if node.op_type in ("Max", "Min") else largest


def _unused(name: str, names: set[str]) -> str:
    """A name that the graph does not have; adds it to `names`."""
    while name in names:
        name += "_"
    names.add(name)
    return name
