"""INT8 graphs: what they compute, what TensorRT and ONNX Runtime make of them, and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from deploytool.backends import tensorrt_estimate
from deploytool.errors import StageFailed
from deploytool.precision import opset
from deploytool.precision.int8 import executed, macs
from deploytool.precision.int8.quantize import activations, candidates, quantize
from deploytool.precision.int8.value_range import ValueRange
from deploytool.results.int8_forms import Form
from deploytool.spec import Range, Tensor
from tests.precision.int8 import graphs
from tests.precision.int8.ranges import all_values, measured_ranges

Array = np.ndarray[Any, Any]
CPU = [Form.U8S8, Form.U8S7, Form.S8S8]
ONE = '<ir_version: 8, opset_import: ["" : 18]> g (float[batch,4,6,6] x) => (float[batch,N,H,W] y)'
ONE_CONV = f"{ONE} {{ a = Conv(x, w, b) r = Relu(a) y = GlobalAveragePool(r) }}"


def run(graph: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    return all_values(graph, inputs)


def quantized(name: str, form: Form, kept: frozenset[str] = frozenset()) -> onnx.ModelProto:
    graph = graphs.body(name)
    return quantize(graph, measured_ranges(graph, graphs.inputs()), form, kept)


def constants(graph: onnx.ModelProto) -> dict[str, Array]:
    return {weight.name: numpy_helper.to_array(weight) for weight in graph.graph.initializer}


def scaling(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]


@pytest.mark.parametrize(("form", "least", "most", "steps"), [(Form.U8S8, 0, 255, 127), (Form.U8S7, 0, 255, 64)])
def test_a_convolution_is_computed_in_integers(form: Form, least: int, most: int, steps: int) -> None:
    """The graph's result, from the definition: integers, their products, one rounding."""
    graph = graphs.weighted(ONE_CONV, {"w": (5, 4, 1, 1), "b": (5,)})
    inputs = {"x": np.random.default_rng(2).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    ranges = measured_ranges(graph, inputs)
    weight, bias = constants(graph)["w"][:, :, 0, 0], constants(graph)["b"]

    def scale_of(name: str) -> tuple[float, float]:
        low, high = min(ranges[name].low, 0), max(ranges[name].high, 0)
        scale = (high - low) / (most - least)
        return scale, round(least - low / scale)

    (scale, zero), (out_scale, out_zero) = scale_of("x"), scale_of("r")
    weight_scale = np.abs(weight).max(1, keepdims=True) / steps
    integers = np.clip(np.round(inputs["x"] / scale) + zero, least, most) - zero
    sums = np.einsum("oc,nchw->nohw", np.round(weight / weight_scale), integers)
    offsets = np.round(bias / (scale * weight_scale[:, 0]))
    exact = (sums + offsets[:, None, None]) * (scale * weight_scale)[:, :, None]
    expected = (np.clip(np.round(exact / out_scale) + out_zero, least, most) - out_zero) * out_scale

    found = run(quantize(graph, ranges, form), inputs)["y"]
    assert np.allclose(found, expected.mean((2, 3), keepdims=True), atol=out_scale / 30)  # one sum in 36 may round away
    float_answers = run(graph, inputs)["y"]
    assert 0 < np.abs(found - float_answers).max() < 2 * out_scale


@pytest.mark.parametrize("name", graphs.BODIES)
@pytest.mark.parametrize("form", graphs.INT8_FORMS)
def test_the_answers_stay_close_and_the_graph_stays_as_it_is(name: str, form: Form) -> None:
    graph = graphs.body(name)
    before, inputs = graph.SerializeToString(), graphs.inputs()
    made = quantize(graph, measured_ranges(graph, inputs), form)
    assert graph.SerializeToString() == before
    assert made.opset_import == graph.opset_import
    assert list(made.graph.input) == list(graph.graph.input)
    assert list(made.graph.output) == list(graph.graph.output)
    expected, found = run(graph, inputs)["y"], run(made, inputs)["y"]
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("name", graphs.BODIES)
def test_tensorrt_form_has_no_int32_no_zero_point_and_one_scale_a_channel(name: str) -> None:
    made = quantized(name, Form.TENSORRT)
    values = constants(made)
    for node in scaling(made):
        data, scale, point = (values.get(each) for each in node.input)
        assert point is not None
        assert point.dtype == np.int8
        assert not point.any()
        assert scale is not None
        if data is not None:
            assert data.dtype == np.int8
            assert scale.shape == (data.shape[next(each.i for each in node.attribute if each.name == "axis")],)
            assert np.array_equal(np.unique(np.abs(data.reshape(len(data), -1)).max(1)), [127])


@pytest.mark.parametrize("name", ["shuffle", "gate", "pooled"])
def test_what_is_not_int8_is_fp16_in_tensorrt_form(name: str) -> None:
    made = onnx.shape_inference.infer_shapes(quantized(name, Form.TENSORRT))
    types = {value.name: value.type.tensor_type.elem_type for value in made.graph.value_info}
    others = [node for node in made.graph.node if node.op_type == "Conv" and node.name not in macs.in_graph(made)]
    assert others
    assert {types[node.output[0]] for node in others} == {TensorProto.FLOAT16}
    assert all(
        value.type.tensor_type.elem_type == TensorProto.FLOAT for value in (*made.graph.input, *made.graph.output)
    )


@pytest.mark.parametrize("name", graphs.BODIES)
@pytest.mark.parametrize("form", [Form.U8S8, Form.U8S7])
def test_onnxruntime_runs_all_that_is_placed_in_int8(name: str, form: Form) -> None:
    made = quantized(name, form)
    optimised = executed.onnxruntime_graph(made)
    allowed = set(candidates(graphs.body(name), form))
    assert executed.in_onnxruntime(optimised) == macs.in_graph(made) == allowed
    count = Counter(node.op_type for node in optimised.graph.node)
    left = name == "hard-swish"  # it has no INT8 kernel
    assert count["QuantizeLinear"] == 1 + left  # of the input; nothing else leaves INT8 to come back
    assert count["Conv"] + count["FusedConv"] + count["Relu"] + count["Gemm"] == 0


@pytest.mark.parametrize("name", ["shuffle", "gate"])
def test_tensorrt_rtx_builds_it_and_runs_all_that_is_placed_in_int8(name: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    made, inputs = quantized(name, Form.TENSORRT), [Tensor("x", ("batch", 8, 12, 12))]
    log, _ = tensorrt_estimate.build_log(made.SerializeToString(), inputs, {"batch": Range(1, 1, 2)})
    heavy = set(macs.count(graphs.body(name)))
    assert executed.in_tensorrt(log) & heavy == macs.in_graph(made) == set(candidates(graphs.body(name), Form.TENSORRT))


@pytest.mark.parametrize("version", [19, 22])
def test_scales_stay_fp32_where_a_newer_opset_allows_fp16(version: int) -> None:
    """An FP16 scale puts a cast between a DequantizeLinear and its convolution, which then runs in FP32."""
    graph = opset.raised(graphs.body("residual"), version)
    made = quantize(graph, measured_ranges(graph, graphs.inputs()), Form.TENSORRT)
    values = constants(made)
    scales = [values[node.input[1]] for node in scaling(made)]
    assert scales
    assert all(scale.dtype == np.float32 for scale in scales)
    inputs = [Tensor("x", ("batch", 8, 12, 12))]
    log, _ = tensorrt_estimate.build_log(made.SerializeToString(), inputs, {"batch": Range(1, 1, 2)})
    assert macs.in_graph(made) <= executed.in_tensorrt(log)


def test_weights_of_7_bits_cannot_saturate() -> None:
    integers = [array for array in constants(quantized("shuffle", Form.U8S7)).values() if array.dtype == np.int8]
    largest = max(int(np.abs(array.astype(int)).max()) for array in integers if array.ndim > 1)
    assert 2 * 255 * largest < 2**15  # two products are added in 16 bits


def test_nodes_are_kept_on_request_with_their_weights() -> None:
    kept = "/c/Conv"
    made = quantized("residual", Form.U8S8, frozenset([kept]))
    assert macs.in_graph(made) == set(candidates(graphs.body("residual"), Form.U8S8)) - {kept}
    (node,) = (node for node in made.graph.node if node.name == kept)
    assert np.array_equal(constants(made)[node.input[1]], constants(graphs.body("residual"))["w1"])


def test_a_weight_that_a_float_node_reads_too_is_not_rounded_for_it() -> None:
    body = "a = Conv(x, w, b) r = Relu(a) c = Conv(r, w, b) s = GlobalAveragePool(c) y = MatMul(s, u) z = Mul(w, two)"
    text = f"{ONE} {{{body}}}".replace("=> (", "=> (float[4,4,1,1] z, ")
    graph = graphs.weighted(text, {"w": (4, 4, 1, 1), "b": (4,), "u": (1, 3), "two": (1,)})
    inputs = {"x": np.random.default_rng(2).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    made = quantize(graph, measured_ranges(graph, inputs), Form.U8S8)
    assert np.array_equal(run(made, inputs)["z"], run(graph, inputs)["z"])
    assert len(macs.in_graph(made)) == 3


def test_constants_in_nodes_and_nodes_without_names_are_quantized_too() -> None:
    graph = graphs.weighted(ONE_CONV, {"w": (5, 4, 1, 1), "b": (5,)})
    for weight in graph.graph.initializer:
        graph.graph.node.insert(0, onnx.helper.make_node("Constant", [], [weight.name], value=weight))
    del graph.graph.initializer[:]
    for node in graph.graph.node:
        node.name = ""
    inputs = {"x": np.random.default_rng(2).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    made = quantize(graph, measured_ranges(graph, inputs), Form.U8S8)
    assert macs.in_graph(made) == set(candidates(graph, Form.U8S8)) == {"a/Conv"}
    assert list(macs.count(graph)) == ["a/Conv"]


def test_every_activation_needs_a_finite_range() -> None:
    graph = graphs.body("residual")
    ranges = measured_ranges(graph, graphs.inputs())
    assert set(activations(graph, Form.U8S8)) == {"x", "r", "c", "e", "p", "f"}
    quantize(graph, {name: ranges[name] for name in activations(graph, Form.U8S8)}, Form.U8S8)
    for wrong in ({}, {"c": ValueRange(0.0, float("inf"))}, {"c": ValueRange(float("nan"), 1.0)}):
        left = {name: found for name, found in ranges.items() if name != "c"} | wrong
        with pytest.raises(StageFailed, match="tensor c "):
            quantize(graph, left, Form.U8S8)


def test_a_graph_without_heavy_nodes_is_refused() -> None:
    graph = graphs.weighted(f"{ONE} {{ y = GlobalAveragePool(x) }}", {})
    with pytest.raises(StageFailed, match="no convolution"):
        quantize(graph, {}, Form.U8S8)
    with pytest.raises(StageFailed, match="no convolution"):
        quantized("residual", Form.U8S8, frozenset(candidates(graphs.body("residual"), Form.U8S8)))
