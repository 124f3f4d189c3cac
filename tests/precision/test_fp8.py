"""The FP8 graph: what is quantised and how, and what TensorRT-RTX builds of it and of other forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from deploytool.backends import e4m3, fp8_emulation, tensorrt, tensorrt_builder, tensorrt_estimate
from deploytool.backends.tensorrt_estimate import BuildEstimate
from deploytool.errors import StageFailed
from deploytool.precision import fp8
from deploytool.precision.int8 import executed, macs
from deploytool.precision.int8.quantize import activations, candidates, quantize
from deploytool.precision.int8.value_range import ValueRange
from deploytool.results.int8_forms import Form
from deploytool.spec import EnginePlan, Precision, Range, Tensor
from tests.precision.int8 import graphs
from tests.precision.int8.ranges import all_values, measured_ranges

Array = np.ndarray[Any, Any]


def made(name: str, kept: frozenset[str] = frozenset()) -> onnx.ModelProto:
    graph = graphs.body(name)
    return quantize(graph, measured_ranges(graph, graphs.inputs()), Form.E4M3, kept)


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}


def computed(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> Array:
    with fp8_emulation.start(model.SerializeToString()) as session:
        return session(**inputs)["y"]


@pytest.mark.parametrize("name", graphs.BODIES)
def test_the_answers_stay_close_and_the_graph_stays_as_it_is(name: str) -> None:
    graph, inputs = graphs.body(name), graphs.inputs()
    before, found = graph.SerializeToString(), made(name)
    assert graph.SerializeToString() == before
    assert [entry.version for entry in found.opset_import] == [21]
    for ends in ("input", "output"):
        old, new = (list(getattr(each.graph, ends)) for each in (graph, found))
        assert [(value.name, value.type.tensor_type.elem_type) for value in new] == [
            (value.name, TensorProto.FLOAT) for value in old
        ]
    expected, got = all_values(graph, inputs)["y"], computed(found, inputs)
    assert 1e-3 < np.abs(got - expected).max() / np.abs(expected).max() < 0.2


@pytest.mark.parametrize("name", graphs.BODIES)
def test_only_what_heavy_nodes_read_is_quantised_and_only_for_them(name: str) -> None:
    graph, found = graphs.body(name), made(name)
    heavy = {node.name for node in graph.graph.node} & set(candidates(graph, Form.E4M3))
    assert macs.in_graph(found) == heavy
    dequantised = {node.output[0] for node in found.graph.node if node.op_type == "DequantizeLinear"}
    readers = {node.name for node in found.graph.node if dequantised.intersection(node.input)}
    assert readers == heavy
    read = {node.input[0] for node in graph.graph.node if node.name in heavy}
    assert set(activations(graph, Form.E4M3)) == read
    assert sum(node.op_type == "QuantizeLinear" for node in found.graph.node) == len(read)


def test_every_scale_is_a_scalar_that_makes_the_largest_value_448_fp16_for_convolutions() -> None:
    graph, found = graphs.body("residual"), made("residual")
    values, ranges = constants(found), measured_ranges(graph, graphs.inputs())
    readers = {name: node.op_type for node in found.graph.node for name in node.input}
    kinds = {"Conv": np.float16, "Gemm": np.float32}
    for node in found.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = (values[name] for name in node.input[1:])
        pairs = [each for each in found.graph.node if each.op_type == "DequantizeLinear"]
        (result,) = (each.output[0] for each in pairs if each.input[1] == node.input[1])
        assert (scale.dtype, scale.shape) == (kinds[readers[result]], ())
        assert (zero.dtype, zero.shape) == (e4m3.DTYPE, ())
        if node.op_type == "QuantizeLinear":
            span = ranges[node.input[0].removesuffix("/fp16").removesuffix("/fp32")]
            assert scale == scale.dtype.type(max(-span.low, span.high) / 448)
        elif node.input[0] in values:
            assert np.abs(values[node.input[0]].astype(np.float32)).max() == 448


def test_weights_are_rounded_once_from_fp32() -> None:
    graph, found = graphs.body("residual"), made("residual")
    values, original = constants(found), constants(graph)
    (reader,) = (node for node in found.graph.node if node.name == "/c/Conv")
    (dequantize,) = (node for node in found.graph.node if node.output[0] == reader.input[1])
    codes, scale = (values[name] for name in dequantize.input[:2])
    expected = e4m3.nearest(original["w1"] / scale.astype(np.float32))
    np.testing.assert_array_equal(codes.astype(np.float32), expected.astype(np.float32))


def test_the_rest_is_fp16() -> None:
    found = onnx.shape_inference.infer_shapes(made("shuffle"), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in found.graph.value_info}
    outputs = [node.output[0] for node in found.graph.node if node.op_type in ("Conv", "Add", "Relu")]
    assert {types[name] for name in outputs} == {TensorProto.FLOAT16}


def test_named_nodes_stay_out() -> None:
    assert macs.in_graph(made("residual", frozenset({"/c/Conv"}))) == macs.in_graph(made("residual")) - {"/c/Conv"}


def test_a_node_that_fp16_would_make_wrong_stays_in_fp32() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,4] x) => (float[N,3] y)
        { p = MatMul(x, w) s = Sigmoid(p) c = Clip(s, least) l = Log(c) y = MatMul(l, v) }"""
    graph = graphs.weighted(text, {"w": (4, 3), "v": (3, 3)})
    graph.graph.initializer.append(numpy_helper.from_array(np.array(1e-10, np.float32), "least"))
    inputs = {"x": np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32) * 30}
    found = quantize(graph, measured_ranges(graph, inputs), Form.E4M3)
    assert "/y/MatMul" in macs.in_graph(found)
    typed = onnx.shape_inference.infer_shapes(found, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    logarithm = next(node for node in found.graph.node if node.op_type == "Log")
    assert types[logarithm.output[0]] == TensorProto.FLOAT


@pytest.mark.parametrize("largest", [0.0, 1e-9, 1e30])
def test_a_scale_stays_a_number_whatever_the_range(largest: float) -> None:
    graph = graphs.body("residual")
    ranges = {name: ValueRange(-largest, largest) for name in activations(graph, Form.E4M3)}
    scales = [values for name, values in constants(quantize(graph, ranges, Form.E4M3)).items() if "/scale" in name]
    assert all(np.isfinite(scale) and scale >= 2.0**-14 for scale in scales)


def test_a_missing_range_is_refused() -> None:
    with pytest.raises(StageFailed, match="has no range in the calibration table"):
        quantize(graphs.body("residual"), {}, Form.E4M3)


def per_channel(model: onnx.ModelProto, axes: Mapping[str, int]) -> onnx.ModelProto:
    """The graph with a scale for each output channel of its weights, whose axis is given by the reading operator."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    values, stored = constants(model), {weight.name: weight for weight in changed.graph.initializer}
    readers = {node.input[1]: node.op_type for node in model.graph.node if len(node.input) > 1}
    for node in changed.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in values:
            continue
        axis = axes[readers[node.output[0]]]
        reals = values[node.input[0]].astype(np.float64) * float(values[node.input[1]])
        others = tuple(dim for dim in range(reals.ndim) if dim != axis)
        scale = (np.abs(reals).max(others) / 448).astype(values[node.input[1]].dtype)
        codes = e4m3.nearest(
            reals / scale.astype(np.float64).reshape([-1 if dim == axis else 1 for dim in range(reals.ndim)])
        )
        stored[node.input[0]].CopyFrom(numpy_helper.from_array(codes, node.input[0]))
        stored[node.input[1]].CopyFrom(numpy_helper.from_array(scale, node.input[1]))
        zero = f"{node.input[1]}/zero"
        changed.graph.initializer.append(numpy_helper.from_array(np.zeros(len(scale), e4m3.DTYPE), zero))
        node.input[2] = zero
        node.attribute.append(onnx.helper.make_attribute("axis", axis))
    return changed


def one_dimensional(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with scales and zero points of shape (1,)."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for weight in changed.graph.initializer:
        if weight.name.endswith(("/scale", "e4m3_zero")):
            weight.dims[:] = [1]
    return changed


def built(model: onnx.ModelProto, *capabilities: str) -> tuple[frozenset[str], BuildEstimate]:
    """The nodes that the build log lists as FP8 kernels, and the costs."""
    log: list[str] = []
    plan = EnginePlan("model.plan", "tensorrt_rtx", capabilities)
    inputs = [Tensor("x", ("batch", 8, 12, 12))]
    library, ranges = tensorrt.library("tensorrt_rtx"), {"batch": Range(1, 2, 4)}
    message = model.SerializeToString()
    engine = tensorrt_builder.build(library, message, plan, inputs, ranges, None, fp32_layers=None, listen=log.append)
    text = "\n".join(log)
    return executed.in_tensorrt(text, Precision.FP8), tensorrt_estimate.parse_log(text, len(engine.engine))


@pytest.mark.parametrize("capabilities", [("8.9",), ("12.0",), ("12.1",), ("8.9", "12.0", "12.1")])
@pytest.mark.parametrize("name", ["residual", "concat", "shuffle", "gate"])
def test_tensorrt_rtx_runs_every_quantised_node_in_fp8(name: str, capabilities: tuple[str, ...]) -> None:
    model = made(name)
    run, _ = built(model, *capabilities)
    assert macs.in_graph(model) <= run


@pytest.mark.parametrize(("size", "places"), [((5, 6), 30), ((4, 8), 32), ((3, 11), 33), ((7, 7), 49)])
def test_a_convolution_is_in_fp8_up_to_32_places_of_its_kernel(size: tuple[int, int], places: int) -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[batch,8,12,12] x) => (float[batch,16] y)
        { c = Conv(x, w) p = GlobalAveragePool(c) f = Flatten(p) y = Gemm(f, v) }"""
    graph = graphs.weighted(text, {"w": (8, 8, *size), "v": (8, 16)})
    expected = {"/c/Conv"} if places <= 32 else set[str]()
    assert set(candidates(graph, Form.E4M3)) == {*expected, "/y/Gemm"}
    assert "/c/Conv" in candidates(graph, Form.TENSORRT)
    ranges = measured_ranges(graph, graphs.inputs())
    whole = fp8.quantize(graph, dict.fromkeys(("/c/Conv", "/y/Gemm"), 3.0))
    assert built(whole, "8.9")[0] & {"/c/Conv"} == expected
    assert macs.in_graph(quantize(graph, ranges, Form.E4M3)) == {*expected, "/y/Gemm"}


def test_a_grouped_convolution_stays_in_fp16_whose_kernel_adds_the_bias() -> None:
    graph = graphs.body("shuffle")
    grouped = {"/c/Conv", "/e/Conv"}
    assert not grouped & set(candidates(graph, Form.E4M3))
    assert grouped < set(candidates(graph, Form.TENSORRT))
    whole = fp8.quantize(graph, dict.fromkeys((*grouped, *candidates(graph, Form.E4M3)), 3.0))
    run, costs = built(whole, "8.9")
    assert grouped < run
    assert built(made("shuffle"), "8.9")[1].kernels < costs.kernels


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6"])
def test_tensorrt_rtx_refuses_it_for_older_gpus(capability: str) -> None:
    with pytest.raises(StageFailed, match="HW-specific datatypes: fp8_e4m3"):
        built(made("residual"), capability)


def test_a_scale_for_each_channel_is_built_with_more_kernels_and_traffic() -> None:
    model = made("residual")
    split = per_channel(model, {"Conv": 0, "Gemm": 0})
    run, costs = built(split, "8.9")
    assert macs.in_graph(model) <= run
    _, own = built(model, "8.9")
    assert (own.kernels, own.traffic) <= (costs.kernels, costs.traffic)
    assert own.traffic < costs.traffic


def test_convolutions_with_scales_of_one_dimension_do_not_run_in_fp8() -> None:
    model = made("residual")
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    run, _ = built(one_dimensional(model), "8.9")
    assert convolutions
    assert not convolutions & run


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_one_scale_for_all_channels_is_about_as_accurate_as_one_for_each(spread: float) -> None:
    """Also where the channels of the weights differ by a factor of e in the standard deviation."""
    rng, errors = np.random.default_rng(0), []
    weights = rng.normal(size=(64, 128)) * np.exp(rng.normal(size=(64, 1)) * spread)
    for largest in (np.abs(weights).max(), np.abs(weights).max(1, keepdims=True)):
        reals = e4m3.nearest(weights * 448 / largest).astype(np.float64) * largest / 448
        errors.append((((reals - weights) ** 2).sum(1) / (weights**2).sum(1)).mean())
    assert errors[0] < 1.2 * errors[1]
