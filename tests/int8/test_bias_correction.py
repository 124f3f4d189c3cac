from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploytool.backends.session import Array
from deploytool.precision.int8 import bias_correction, calibration
from deploytool.precision.int8.bias_correction import Corrected
from deploytool.precision.int8.calibration import Method
from tests.int8 import nets, quantised
from tests.int8.planted_calibration import FORMS

CASES = nets.pictures(24, 1)


@cache
def graphs(form: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    source = nets.export(nets.separable, 0)
    table = calibration.collect(source, nets.activations(source), [{"input": CASES}])
    ranges = table.ranges(Method.MSE, symmetric="symmetric" in FORMS[form])
    return source, quantised.quantize(source, ranges, **FORMS[form])


@cache
def corrected(form: str) -> Corrected:
    return bias_correction.correct(*graphs(form), [{"input": CASES[:10]}, {"input": CASES[10:]}])


def first_errors(quantized: onnx.ModelProto) -> Array:
    """The mean error of each channel of the first convolution."""
    errors: Array = values(quantized).mean((0, 2, 3)) - values(graphs("u8s8")[0]).mean((0, 2, 3))
    return errors


def values(graph: onnx.ModelProto) -> Array:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    first = next(node for node in copy.graph.node if node.op_type == "Conv")
    del copy.graph.output[:]
    copy.graph.output.append(onnx.ValueInfoProto(name=first.output[0]))
    return nets.run(copy, CASES).astype(np.float64)


@pytest.mark.parametrize("form", ["u8s8", "fused"])
def test_the_mean_error_becomes_smaller(form: str) -> None:
    made = corrected(form)
    assert len(made.layers) == 6
    assert made.after < 0.8 * made.before
    assert np.abs(first_errors(made.graph)).mean() < 0.2 * np.abs(first_errors(graphs(form)[1])).mean()


@pytest.mark.parametrize("form", ["u8s8", "fused"])
def test_outputs_on_other_data_are_closer(form: str) -> None:
    source, quantized = graphs(form)
    other = nets.pictures(32, 8)
    wanted = nets.run(source, other)
    before, after = (((nets.run(graph, other) - wanted) ** 2).mean() for graph in (quantized, corrected(form).graph))
    assert after < 0.95 * before


def weights_of(graph: onnx.ModelProto) -> Mapping[str, Array]:
    return {weight.name: numpy_helper.to_array(weight) for weight in graph.graph.initializer}


@pytest.mark.parametrize("form", ["u8s8", "fused"])
def test_only_biases_change_and_keep_their_types(form: str) -> None:
    before, after = weights_of(graphs(form)[1]), weights_of(corrected(form).graph)
    assert before.keys() == after.keys()
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert 0 < len(changed) <= 6
    assert all(after[name].dtype == before[name].dtype and after[name].ndim == 1 for name in changed)
    assert list(graphs(form)[1].graph.node) == list(corrected(form).graph.graph.node)


def test_a_shift_that_is_planted_is_taken_back() -> None:
    source, quantized = graphs("fused")
    shifted = onnx.ModelProto()
    shifted.CopyFrom(quantized)
    bias = next(node for node in shifted.graph.node if node.op_type == "Conv").input[2]
    held = next(weight for weight in shifted.graph.initializer if weight.name == bias)
    held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held) + np.float32(0.25), bias))
    assert np.abs(first_errors(shifted)).mean() > 0.2
    made = bias_correction.correct(source, shifted, [{"input": CASES}])
    assert np.abs(first_errors(made.graph)).max() < 0.01


def in_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of one convolution, computed in FP16, with a bias that is 0.25 too large."""
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    node = made.graph.node[0]
    for weight in made.graph.initializer:
        shift = 0.25 if weight.name == node.input[2] else 0.0
        weight.CopyFrom(
            numpy_helper.from_array((numpy_helper.to_array(weight) + shift).astype(np.float16), weight.name)
        )
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    before = helper.make_node("Cast", ["x"], ["narrow"], "before", to=half)
    after = helper.make_node("Cast", ["result"], ["y"], "after", to=single)
    node.input[0], node.output[0] = "narrow", "result"
    del made.graph.node[:]
    made.graph.node.extend([before, node, after])
    return made


def test_biases_in_fp16_are_corrected() -> None:
    rng = np.random.default_rng(0)
    arrays = {"weight": rng.normal(size=(4, 3, 1, 1)), "bias": rng.normal(size=4)}
    held = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", channels, 8, 8])
        for name, channels in (("x", 3), ("y", 4))
    ]
    node = helper.make_node("Conv", ["x", "weight", "bias"], ["y"], "conv")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], held)
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = bias_correction.correct(source, in_fp16(source), [{"x": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)}])
    bias = weights_of(made.graph)["bias"]
    assert bias.dtype == np.float16
    assert np.abs(bias - arrays["bias"]).max() < 0.005


def test_a_graph_without_such_layers_stays_as_it_is() -> None:
    source, quantized = graphs("u8s8")
    bare = onnx.ModelProto()
    bare.CopyFrom(quantized)
    for node in bare.graph.node:
        node.name = ""
    made = bias_correction.correct(source, bare, [{"input": CASES[:1]}])
    assert made.graph is bare
    assert (made.layers, made.before, made.after) == ((), 0.0, 0.0)
