"""Loops that would take hours are refused after a number of turns, which all loops of a run share."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deploytool.errors import StageFailed
from deploytool.loading.graph import turns
from deploytool.loading.graph.interpreter import GraphModule


def value(name: str, kind: int, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def loop(level: int, inner: list[onnx.NodeProto], result: str) -> onnx.NodeProto:
    """A loop of `turns` turns around other nodes."""
    nodes = [*inner, helper.make_node("Add", [f"in{level}", "one"], [f"out{level}"])]
    inputs = [
        value(f"turn{level}", TensorProto.INT64, []),
        value(f"go{level}", TensorProto.BOOL, []),
        value(f"in{level}", TensorProto.FLOAT),
    ]
    outputs = [value(f"go{level}", TensorProto.BOOL, []), value(f"out{level}", TensorProto.FLOAT)]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    return helper.make_node("Loop", ["turns", "go", "x"], [result], f"loop{level}", body=body)


def nested(count: int) -> GraphModule:
    """A loop in a loop, `count` turns each."""
    weights = {"turns": np.array(count, np.int64), "go": np.array(True), "one": np.ones(1, np.float32)}
    graph = helper.make_graph(
        [loop(1, [loop(0, [], "inner")], "y")],
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return GraphModule(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def scan(length: int) -> GraphModule:
    """A sum over a sequence."""
    nodes = [helper.make_node("Add", ["state", "step"], ["next"])]
    body_inputs = [value(name, TensorProto.FLOAT, []) for name in ("state", "step")]
    body = helper.make_graph(nodes, "body", body_inputs, [value("next", TensorProto.FLOAT, [])])
    graph = helper.make_graph(
        [helper.make_node("Scan", ["zero", "x"], ["y"], "scan", body=body, num_scan_inputs=1)],
        "g",
        [value("x", TensorProto.FLOAT, [length])],
        [value("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array(0, np.float32), "zero")],
    )
    return GraphModule(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def test_nested_loops_share_the_turns_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST", 20)
    module = nested(4)
    for _ in range(3):  # each run has all turns
        assert module(torch.zeros(1))["y"].item() == 4
    with pytest.raises(StageFailed, match=r"more than 20 turns in one run, in the node .*loop"):
        nested(5)(torch.zeros(1))


def test_the_steps_of_a_scan_are_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST", 8)
    assert scan(8)(torch.ones(8))["y"].item() == 8
    with pytest.raises(StageFailed, match="more than 8 turns"):
        scan(9)(torch.ones(9))
