from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from deploytool.backends import int8_saturation, onnxruntime
from deploytool.host import machine
from tests.backends import saturating_sums
from tests.int8 import quantized
from tests.int8.quantized import Form

Array = npt.NDArray[Any]
saturating = pytest.mark.skipif(
    not machine.saturates_int8(), reason="this processor adds products of UINT8 and INT8 without saturation"
)


def test_pairs_of_products_saturate_and_their_sums_do_not() -> None:
    one = np.full((1, 5), 255, np.uint8)
    weights = np.array([[127, 64, -128], [127, 64, -128], [127, 64, 1], [-1, 64, -128], [127, 64, 0]], np.int8)
    expected = [[32767 + 255 * 126 + 255 * 127, 255 * 64 * 5, -32768 - 255 * 127]]
    np.testing.assert_array_equal(saturating_sums.sums(one, weights), expected)


def integers(shape: tuple[int, ...], kind: type, *, seed: int, high: bool = True) -> Array:
    """Random integers of a type, most of them large."""
    rng = np.random.default_rng(seed)
    ends = np.iinfo(kind)
    return rng.integers(ends.max * 5 // 8 if high else ends.min, ends.max + 1, shape).astype(kind)


@saturating
@pytest.mark.parametrize("terms", [2, 7, 33, 64])
@pytest.mark.parametrize("high", [True, False])
def test_a_product_is_that_of_this_processor(terms: int, high: bool) -> None:
    left = integers((5, terms), np.uint8, seed=terms, high=high)
    right = integers((terms, 9), np.int8, seed=1, high=high)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [None, terms])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [None, 9])],
        [numpy_helper.from_array(right, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": left})
    expected = saturating_sums.sums(left, right)
    assert not high or (expected != left.astype(int) @ right.astype(int)).mean() > 0.5
    np.testing.assert_array_equal(result, expected)
    with onnxruntime.start(model.SerializeToString(), batch_first=False) as exact:
        np.testing.assert_array_equal(exact(x=left)["y"], left.astype(int) @ right.astype(int))


def convolution(weights: Array, scale: float, groups: int = 1) -> onnx.ModelProto:
    """QLinearConv with a zero point of 3, and a stride of 2 where there is one group."""
    constants = {"s": np.float32(1), "z": np.uint8(3), "o": np.int8(0), "r": np.float32(scale), "u": np.uint8(0)}
    stride, pad = 2 if groups == 1 else 1, weights.shape[2] // 2
    inputs, pads, strides = ["x", "s", "z", "w", "s", "o", "r", "u"], [pad] * 4, [stride] * 2
    node = helper.make_node("QLinearConv", inputs, ["y"], pads=pads, strides=strides, group=groups)
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [None, weights.shape[1] * groups, 7, 7])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in ({"w": weights} | constants).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@saturating
@pytest.mark.parametrize(("channels", "kernel"), [(3, 3), (4, 3), (7, 1), (2, 5)])
def test_a_convolution_is_that_of_this_processor(channels: int, kernel: int) -> None:
    weights = integers((6, channels, kernel, kernel), np.int8, seed=2)
    images = integers((2, channels, 7, 7), np.uint8, seed=3)
    scale = 2.0 ** np.ceil(np.log2(channels * kernel**2 * 100.0))
    session = ort.InferenceSession(convolution(weights, scale).SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": images})
    got = saturating_sums.convolution_sums(images, weights, 3, (kernel // 2, kernel // 2), 2)
    np.testing.assert_array_equal(result, np.clip(np.rint(got / scale), 0, 255))
    assert np.abs(got / scale).max() > 16  # an error of one pair would show


@pytest.mark.parametrize(
    ("pair", "saturates"),
    [((64, 64), False), ((65, 64), True), ((-64, -64), False), ((-65, -64), True), ((127, 1), False)],
)
def test_weights_that_can_saturate_are_recognised(pair: tuple[int, int], saturates: bool) -> None:
    weights = np.zeros((2, 3, 3, 3), np.int8)
    weights[1, 0, 0, 0], weights[1, 2, 2, 1] = pair
    assert int8_saturation.may_saturate(weights) is saturates
    sums = saturating_sums.sums(np.full((1, 2), 255, np.uint8), np.array(pair, np.int8)[:, None])
    assert (sums.item() != 255 * sum(pair)) is saturates


@pytest.mark.parametrize("form", list(Form))
def test_layers_with_int8_weights_of_eight_bits_may_saturate(form: Form, tmp_path: Path) -> None:
    model = onnx.load(quantized.quantised(quantized.network(1), tmp_path, form))
    layers = int8_saturation.saturating_layers(model)
    dense = [
        node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm") and "group" not in _grouped(node)
    ]
    assert layers == (tuple(dense) if form in (Form.U8S8, Form.S8S8, Form.TENSORRT) else ())


def _grouped(node: onnx.NodeProto) -> set[str]:
    return {each.name for each in node.attribute if each.name == "group" and each.i > 1}


@pytest.mark.parametrize("form", list(Form))
def test_a_fused_graph_has_no_saturation_in_our_sessions(form: Form) -> None:
    """On processors without VNNI this fails without `forbid_saturation`."""
    activation, weight = (np.uint8, np.int8) if form in (Form.U8S8, Form.U8S7) else (np.int8, np.int8)
    codes = np.full((8, 4), 64 if form is Form.U8S7 else 127).astype(np.uint8 if form is Form.U8U8 else weight)
    activation = np.uint8 if form is Form.U8U8 else activation
    highest = int(np.iinfo(activation).max)
    constants = {
        "s": np.float32(1),
        "z": activation(0),
        "o": codes.dtype.type(0),
        "codes": codes,
        "t": np.float32(2048),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["codes", "s", "o"], ["w"]),
        helper.make_node("MatMul", ["d", "w"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "t", "z"], ["pq"]),
        helper.make_node("DequantizeLinear", ["pq", "t", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with onnxruntime.start(model.SerializeToString()) as session:
        result = session(x=np.full((2, 8), highest, np.float32))["y"]
    expected = min(np.rint(8 * highest * int(codes[0, 0]) / 2048), highest) * 2048
    np.testing.assert_array_equal(result, np.full((2, 4), expected, np.float32))


@pytest.mark.parametrize("saturates", [True, False])
def test_exact_kernels_are_asked_for_only_where_others_saturate(
    saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "saturates_int8", lambda: saturates)
    options = onnxruntime._session_options(1, optimise=True)
    if saturates:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="x64quantprecision"):
            options.get_session_config_entry("session.x64quantprecision")


@pytest.mark.parametrize("form", [Form.U8S7, Form.U8S8])
def test_the_entry_changes_nothing_for_weights_of_seven_bits(form: Form, tmp_path: Path) -> None:
    """ONNX Runtime makes weights UINT8 only if one is outside of -64 to 64: so the entry need not look at the graph."""
    path, optimised = quantized.quantised(quantized.network(3), tmp_path, form), []
    for entries in ((), (onnxruntime._EXACT_INTEGERS,)):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        for entry in entries:
            options.add_session_config_entry(*entry)
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        optimised.append((tmp_path / "optimised.onnx").read_bytes())
    assert (optimised[0] == optimised[1]) is (form is Form.U8S7)
