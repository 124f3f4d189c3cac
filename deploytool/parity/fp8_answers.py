"""What proves an FP8 graph on a device: its answers as quantised, and how far sound kernels may move them.

Tensor cores add in an order and a precision of their own, and return FP16, so a value that is quantised next may be its
neighbour in FP16. Where it lies next to a tie of E4M3, whose steps are 128 times as wide, it moves by such a step. The
noise is measured by moving every value before it is quantised, at random by up to half a step of FP16. Such a step is
rare, and in a late layer of few values it is most of the error of its case, so the noise is that of rare errors. The
tolerance is a multiple of it, as in INT8, and is wider: about twice the error of FP8 itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from deploytool.backends import fp8_emulation
from deploytool.data.golden import Arrays, Golden
from deploytool.parity import int8_answers, noise_floor
from deploytool.results.report import Limits
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.spec import Precision

_MOVED = 2.0**-11  # of a value: half a step of FP16
_RUNS = 64  # of a case: with 24, one network in 24 had kernels beyond the tolerance


def record(graph: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """The answers of an FP8 graph to these inputs, as quantised."""
    return int8_answers.run(fp8_emulation.emulate(graph), inputs)


def limits(graph: onnx.ModelProto, answers: Arrays, sample: Golden) -> Limits:
    """How far sound kernels may be from `answers`, those of the graph to the golden cases."""
    runs = [record(_moved(graph, seed), sample.inputs) for seed in int8_answers.seeds(sample, _RUNS)]
    return int8_answers.limits_of(runs, answers, sample, Precision.FP8, noise_floor.rare_floor)


def _moved(graph: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy in which every activation is a little larger or smaller, at random, before it is quantised."""
    editable, rng = EditableGraph(graph), np.random.default_rng(seed)
    for node in list(editable.nodes):
        scale = editable.constant(node.input[1]) if node.op_type == "QuantizeLinear" else None
        if scale is not None and editable.constant(node.input[0]) is None:
            kind = helper.np_dtype_to_tensor_dtype(scale.dtype)
            editable.replace([node], _moving(editable, node, kind, float(rng.integers(1 << 20))))
    return editable.to_model()


def _moving(graph: EditableGraph, node: NodeProto, kind: int, seed: float) -> list[NodeProto]:
    """Nodes that move what a node quantises, a tensor of type `kind`, and the node that reads the result."""
    ends: dict[str, Any] = {"low": 1 - _MOVED, "high": 1 + _MOVED, "seed": seed, "dtype": TensorProto.FLOAT}
    factors = graph.make_node("RandomUniformLike", node, [node.input[0]], **ends)
    wide = graph.make_node("Cast", node, [node.input[0]], to=TensorProto.FLOAT)
    product = graph.make_node("Mul", node, [wide.output[0], factors.output[0]])
    moved = graph.make_node("Cast", node, [product.output[0]], to=kind)
    quantised = NodeProto()
    quantised.CopyFrom(node)
    quantised.input[0] = moved.output[0]
    return [factors, wide, product, moved, quantised]
