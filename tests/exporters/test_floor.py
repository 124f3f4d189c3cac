"""Tests of graphs that are fitted to old runtimes."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from deploytool.errors import StageFailed
from deploytool.exporters import floor


def model(operator: str, opset: int, ir_version: int = 11, inputs: int = 1) -> onnx.ModelProto:
    """A graph of one operator on inputs of shape (1, 2, 4, 8)."""
    names = ["x", "k", "v"][:inputs]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 8]) for name in [*names, "y"]]
    node = helper.make_node(operator, names, ["y"], "the_node")
    graph = helper.make_graph([node], "g", values[:-1], values[-1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def versions(made: onnx.ModelProto) -> tuple[int, int]:
    return made.ir_version, made.opset_import[0].version


def test_a_graph_that_every_runtime_reads_stays_as_it_is() -> None:
    made = model("Gelu", 20, 8)
    assert floor.fit(made, {"ort": "1.20", "trt": "10.3"}) is made
    assert floor.fit(made, {}) is made


def test_the_ir_version_is_lowered() -> None:
    made = model("Relu", 18, 13)
    assert versions(floor.fit(made, {"ort": "1.18"})) == (10, 18)
    fitted = floor.fit(made, {"ort": "1.16", "trt": "10.3"})
    assert (versions(fitted), versions(made)) == ((9, 18), (13, 18))
    onnx.checker.check_model(fitted, full_check=True)


@pytest.mark.parametrize(
    ("operator", "inputs", "version", "opset"), [("Attention", 3, "1.20", 21), ("Gelu", 1, "1.16", 19)]
)
def test_an_operator_that_the_older_opset_lacks_is_named(operator: str, inputs: int, version: str, opset: int) -> None:
    with pytest.raises(StageFailed, match=f"opset {opset} has no operator {operator}, which node 'the_node'") as caught:
        floor.fit(model(operator, 23, inputs=inputs), {"ort": version})
    assert f"ONNX Runtime {version} reads opsets up to {opset}" in caught.value.remedy
    assert "--floor" in caught.value.remedy


def test_an_opset_that_was_not_converted_is_refused() -> None:
    with pytest.raises(StageFailed, match="has opset 22, and cannot be converted to opset 20"):
        floor.fit(model("Relu", 22), {"trt": "10.3"})


def test_an_operator_inside_a_branch_is_named() -> None:
    inner = helper.make_node("Gelu", ["x"], ["z"], "inner")
    branch = helper.make_graph([inner], "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])])
    node = helper.make_node("If", ["c"], ["y"], "outer", then_branch=branch, else_branch=branch)
    values = [
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
    ]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    with pytest.raises(StageFailed, match="no operator Gelu, which node 'inner'"):
        floor.fit(made, {"ort": "1.16"})
