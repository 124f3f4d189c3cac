"""The FP32 graph behind Q/DQ nodes: equal to the one that was quantised, but for the weights' own rounding."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from deploytool.precision.int8 import unquantised
from deploytool.precision.int8.quantize import quantize
from deploytool.results.int8_forms import Form
from tests import given_graphs
from tests.precision.int8.ranges import all_values, measured_ranges

INPUTS = {"image": np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)}


@pytest.mark.parametrize("form", [Form.U8S8, Form.S8S8, Form.U8S7])
def test_nodes_read_what_was_quantised(form: Form) -> None:
    graph = given_graphs.conv()
    quantized = quantize(graph, measured_ranges(graph, INPUTS), form)
    stripped = unquantised.strip(quantized)
    onnx.checker.check_model(stripped)
    assert [node.op_type for node in stripped.graph.node] == [node.op_type for node in graph.graph.node]
    expected, got = (all_values(each, INPUTS)["scores"] for each in (graph, stripped))
    np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max())
    clipped = {name: type(each)(each.low / 50, each.high / 50) for name, each in measured_ranges(graph, INPUTS).items()}
    again = unquantised.strip(quantize(graph, clipped, form))
    unclipped = all_values(again, INPUTS)["scores"]
    np.testing.assert_allclose(unclipped, got, atol=0.02 * np.abs(expected).max())  # ranges of activations are gone


def test_an_output_that_is_dequantised_keeps_its_name() -> None:
    graph = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 18]>
g (float[N,4] x) => (float[N,4] y) {
  step = Constant<value = float {0.1}>()
  zero = Constant<value = int8 {0}>()
  q = QuantizeLinear(x, step, zero)
  y = DequantizeLinear(q, step, zero)
}""")
    stripped = unquantised.strip(graph)
    assert [(node.op_type, list(node.output)) for node in stripped.graph.node] == [("Identity", ["y"])]


def test_a_node_that_reads_integers_stays() -> None:
    """Its result has no FP32 tensor that it stands for."""
    graph = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 18]>
g (int8[N,4] x) => (float[N,4] y) {
  step = Constant<value = float {0.1}>()
  y = DequantizeLinear(x, step)
}""")
    assert [node.op_type for node in unquantised.strip(graph).graph.node] == ["Constant", "DequantizeLinear"]
