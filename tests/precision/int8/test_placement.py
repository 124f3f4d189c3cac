"""The placement rules, each on a small graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploytool.precision.int8.placement import fused
from deploytool.precision.int8.placement.fused import Fuses
from deploytool.precision.int8.quantize import activations, candidates, quantize
from deploytool.precision.int8.value_range import ValueRange
from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph.editable import EditableGraph
from tests.precision.int8 import graphs
from tests.precision.int8.ranges import measured_ranges

CPU = [Form.U8S8, Form.U8S7, Form.S8S8]


def scales(name: str, form: Form) -> dict[str, float]:
    """The scale of every quantized activation."""
    graph = graphs.body(name)
    return scales_of(quantize(graph, measured_ranges(graph, graphs.inputs()), form))


def scales_of(made: onnx.ModelProto) -> dict[str, float]:
    values: dict[str, Any] = {weight.name: numpy_helper.to_array(weight) for weight in made.graph.initializer}
    nodes = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    return {node.input[0].removesuffix("/fp32"): float(values[node.input[1]]) for node in nodes}


def test_no_quantization_stands_between_a_convolution_and_its_activation() -> None:
    for form in graphs.INT8_FORMS:
        assert not {"a", "d"} & set(activations(graphs.body("residual"), form))  # Relu follows both
    for form in CPU:
        assert {"c", "g", "m"} < set(activations(graphs.body("swish"), form))  # ONNX Runtime needs each in INT8
    assert not {"c", "g"} & set(activations(graphs.body("swish"), Form.TENSORRT))


def test_hard_swish_runs_in_floating_point_between_int8_nodes() -> None:
    graph = graphs.body("hard-swish")
    for form in graphs.INT8_FORMS:
        expected = {"c", "h"} if form in CPU else {"h"}  # before and after it
        assert {"c", "h"} & set(activations(graph, form)) == expected
        assert {"/c/Conv", "/k/Conv"} < set(candidates(graph, form))


def test_where_activations_are_fused_only_what_int8_nodes_read_is_quantized() -> None:
    for form in CPU:
        assert {"c", "g", "m"} & set(activations(graphs.body("swish"), form, Fuses.ACTIVATIONS)) == {"m"}
        assert {"c", "h"} & set(activations(graphs.body("hard-swish"), form, Fuses.ACTIVATIONS)) == {"h"}
        swish, tensorrt = graphs.body("swish"), Form.TENSORRT
        assert activations(swish, tensorrt, Fuses.ACTIVATIONS) == activations(swish, tensorrt)


@pytest.mark.parametrize(
    ("nodes", "end"),
    [
        ("g = Sigmoid(c) y = Mul(c, g) e = Tanh(x)", "y"),
        ("g = HardSigmoid(c) m = Mul(g, c) y = Clip(m) e = Tanh(x)", "y"),
        ("g = Sigmoid(c) y = Mul(c, g) e = Tanh(c)", "c"),  # a third node reads the convolution
        ("g = Sigmoid(c) y = Mul(c, g) e = Tanh(g)", "c"),  # another node reads the gate
        ("g = Sigmoid(x) y = Mul(c, g) e = Tanh(c)", "c"),  # the gate is that of another tensor
        ("g = Sigmoid(c) y = Add(c, g) e = Tanh(x)", "c"),
    ],
)
def test_a_kernel_ends_with_the_product_of_a_result_and_its_own_activation(nodes: str, end: str) -> None:
    text = "g (float[batch,8,12,12] x) => (float[batch,8,12,12] y, float[batch,8,12,12] e)"
    text = f'<ir_version: 8, opset_import: ["" : 18]> {text} {{ c = Conv(x, w0, b0) {nodes} }}'
    graph = EditableGraph(graphs.weighted(text, graphs.CONV))
    assert fused.end(graph.nodes[0], graph, Fuses.ACTIVATIONS) == end
    assert fused.end(graph.nodes[0], graph, Fuses.CLIPPING) == "c"


def test_a_chain_that_moves_values_is_quantized_at_its_ends_where_it_is_fused() -> None:
    assert {*"cstu"} < set(activations(graphs.body("shuffle"), Form.U8S8))
    graph = graphs.body("shuffle")
    assert {*"cstu"} & set(activations(graph, Form.U8S8, Fuses.ACTIVATIONS)) == {*"cu"}
    made = quantize(graph, measured_ranges(graph, graphs.inputs()), Form.U8S8, fuses=Fuses.ACTIVATIONS)
    found = scales_of(made)
    assert found["c"] == found["u"]


def test_concat_inputs_share_a_scale_with_its_output() -> None:
    for form in graphs.INT8_FORMS:
        found = scales("concat", form)
        assert found["d"] == found["h"] == found["i"]


def test_tensors_that_share_a_scale_take_the_widest_range() -> None:
    graph = graphs.body("concat")
    ranges = measured_ranges(graph, graphs.inputs())
    ranges |= {"d": ValueRange(-1.0, 2.0), "h": ValueRange(-3.0, 1.0), "i": ValueRange(0.0, 1.0)}
    found = scales_of(quantize(graph, ranges, Form.U8S8))
    assert np.allclose([found[name] for name in "dhi"], 5 / 255)


def test_a_concat_that_clips_has_a_scale_of_its_own() -> None:
    """With the scale of inputs that can be negative, Relu could not become part of the Concat."""
    found = scales("concat, then Relu", Form.U8S8)
    assert len({found["c"], found["e"], found["j"]}) == 3
    assert "i" not in found


def test_inputs_of_a_residual_add_have_scales_of_their_own_on_a_cpu() -> None:
    found = scales("residual", Form.U8S8)
    assert len({found["r"], found["c"], found["e"]}) == 3


def test_what_moves_values_keeps_their_scale() -> None:
    found = scales("shuffle", Form.U8S8)
    assert found["c"] == found["s"] == found["t"] == found["u"]
    pooled = scales("pooled", Form.TENSORRT)
    assert pooled["r"] == pooled["d"]


def test_depthwise_convolutions_and_gates_stay_fp16_in_tensorrt_only() -> None:
    for name, nodes in {"shuffle": {"/d/Conv"}, "pooled": {"/h/Conv"}, "gate": {"/d/Conv", "/k/Conv"}}.items():
        graph = graphs.body(name)
        everything = {node.name for node in graph.graph.node if node.op_type in ("Conv", "Gemm")}
        assert everything - set(candidates(graph, Form.TENSORRT)) == nodes
        for form in CPU:
            assert set(candidates(graph, form)) == everything


def test_depthwise_convolutions_with_large_windows_stay_fp32_in_openvino() -> None:
    for size in (5, 7):
        nodes = f"d = Conv<group=8, pads=[{', '.join([str(size // 2)] * 4)}]>(r, wd, b1) {graphs.TAIL.format('d')}"
        graph = graphs.weighted(
            f"{graphs.HEAD} {{{graphs.FIRST} {nodes}}}", graphs.CONV | graphs.FC | {"wd": (8, 1, size, size)}
        )
        assert ("/d/Conv" in candidates(graph, Form.U8S8, Fuses.ACTIVATIONS)) == (size == 5)
        assert "/d/Conv" in candidates(graph, Form.U8S8)


def test_the_scores_of_the_last_layer_are_not_rounded_to_8_bits() -> None:
    for form in graphs.INT8_FORMS:
        assert "y" not in activations(graphs.body("residual"), form)


HEADS = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[batch,8,12,12] x) => (float[batch,N,M] boxes, float[batch,K] k) {
    a = Conv(x, w0, b0) r = Relu(a) c = Conv(r, w1, b1) s = Reshape(c, rows) boxes = Sigmoid(s)
    e = Conv(r, w2, b1) p = GlobalAveragePool(e) k = Flatten(p) }"""


def test_the_head_of_a_detector_stays_float() -> None:
    graph = graphs.weighted(HEADS, graphs.CONV | {"w2": (8, 8, 1, 1)})
    graph.graph.initializer.append(numpy_helper.from_array(np.array([0, 8, 100]), "rows"))
    for form in graphs.INT8_FORMS:
        assert set(candidates(graph, form)) == {"/a/Conv", "/e/Conv"}


@pytest.mark.parametrize(
    "node",
    [
        "y = Gemm<alpha=0.5>(x, w)",
        "y = Gemm<transA=1>(x, w)",
        "y = MatMul(x, x)",
        "v = Abs(w) y = MatMul(x, v)",
        "y = Gemm(x, w, n)",
    ],
)
def test_products_without_an_int8_kernel_are_left(node: str) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 18]> g (float[4,4] x) => (float[4,4] y) {{ {node} }}'
    graph = graphs.weighted(text, {"w": (4, 4), "n": (4, 4)})
    for form in graphs.INT8_FORMS:
        assert candidates(graph, form) == ()


def test_a_product_with_a_constant_is_quantized_per_column() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[4,4] x) => (float[4,3] y) { y = MatMul(x, w) }'
    graph = graphs.weighted(text, {"w": (4, 3)})
    inputs = {"x": np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)}
    for form in graphs.INT8_FORMS:
        made: onnx.ModelProto = quantize(graph, measured_ranges(graph, inputs), form)
        (scale,) = (weight for weight in made.graph.initializer if list(weight.dims) == [3] and weight.data_type == 1)
        steps = 64 if form is Form.U8S7 else 127
        expected = np.abs(numpy_helper.to_array(graph.graph.initializer[0])).max(0) / steps
        assert np.allclose(numpy_helper.to_array(scale), expected, rtol=1e-6)
