"""What ways to calibrate are compared by: an output that selects is replaced by the layers that it follows from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from deploytool.precision.int8 import selection
from deploytool.precision.int8.quantize import quantize
from deploytool.results.int8_forms import Form
from tests import given_graphs
from tests.precision.int8.ranges import measured_ranges

DETECTOR = """<ir_version: 8, opset_import: ["": 18]>
detector (float[N,3,16,16] image) => (float[N,4] scores, int64[N,4] places, float[N,8] pooled) {
  a = Conv<pads=[1,1,1,1]>(image, stem, bias)
  b = Relu(a)
  cells = Conv(b, head)
  flat = Flatten(cells)
  few = Constant<value_ints=[4]>()
  best, places = TopK(flat, few)
  scores = Sigmoid(best)
  means = GlobalAveragePool(b)
  pooled = Flatten(means)
}"""


@pytest.fixture
def graph() -> onnx.ModelProto:
    return given_graphs.model(DETECTOR, given_graphs.weights(stem=(8, 3, 3, 3), bias=(8,), head=(1, 8, 1, 1)))


def test_a_selection_is_compared_by_the_layer_before_it(graph: onnx.ModelProto) -> None:
    assert selection.compared(graph) == ("cells", "pooled")
    assert selection.compared(given_graphs.conv()) == ("scores",)


@pytest.mark.parametrize("form", Form)
def test_rows_in_another_order_are_no_error(graph: onnx.ModelProto, form: Form) -> None:
    inputs = {"image": np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)}
    quantized = quantize(graph, measured_ranges(graph, inputs), form)
    names = selection.compared(graph)
    found, expected = (selection.results(each, [inputs], names) for each in (quantized, graph))
    assert 0 < selection.error(found, expected) < 1e-3
