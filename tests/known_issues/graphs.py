"""Builds graphs with the pattern of the public report, and variations of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Nodes = list[onnx.NodeProto]
SHAPE = ["batch", 8, 6, 6]


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), output.split()[0], **attributes)


def reported_pattern() -> Nodes:
    """A Split, a residual bottleneck on its second half, and a Concat of three that reads the residual operand."""
    return [
        node("Conv", "image stem_weight", "stem"),
        node("Split", "stem", "left right", axis=1, num_outputs=2),
        node("Conv", "right weight", "wide"),
        node("Relu", "wide", "active"),
        node("Add", "right active", "sum"),
        node("Concat", "left right sum", "all", axis=1),
        node("GlobalAveragePool", "all", "pooled"),
    ]


def graph(nodes: Nodes) -> onnx.GraphProto:
    rng = np.random.default_rng(0)
    weights = {
        "stem_weight": rng.normal(size=(8, 3, 1, 1)),
        "weight": rng.normal(size=(4, 4, 1, 1)),
        "gate_weight": rng.normal(size=(4, 4, 1, 1)),
        "half": np.array(0.5),
        "one": np.array(1.0),
        "ones": np.ones(4),
    }
    return helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )


def save(nodes: Nodes, path: Path) -> Path:
    model = helper.make_model(graph(nodes), opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def with_replacement(old: str, *new: onnx.NodeProto) -> Nodes:
    """The nodes of the report, with `new` in the place of the node that produces `old`."""
    return [node for original in reported_pattern() for node in (new if old in original.output else (original,))]
