from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploytool.backends import int8_emulation, onnxruntime
from deploytool.errors import MissingBackend, StageFailed
from tests.int8 import quantized, truth
from tests.int8.quantized import Form

Array = npt.NDArray[Any]


def with_all_tensors(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every floating-point and 8-bit tensor as an output."""
    copy = onnx.shape_inference.infer_shapes(model)
    inner = {name for node in copy.graph.node for name in node.output} - {output.name for output in copy.graph.output}
    copy.graph.output.extend(value for value in copy.graph.value_info if value.name in inner)
    return copy


def run(model: onnx.ModelProto, **inputs: Array) -> dict[str, Array]:
    with int8_emulation.start(model.SerializeToString()) as session:
        return session(**inputs)


def run_unfused(model: onnx.ModelProto, **inputs: Array) -> dict[str, Array]:
    with onnxruntime.start(model.SerializeToString(), optimise=False, batch_first=False) as session:
        return session(**inputs)


def run_all(model: onnx.ModelProto, images: Array) -> dict[str, Array]:
    emulated = int8_emulation.emulate(with_all_tensors(model))
    return run_unfused(emulated, image=images)


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("seed", [0, 3])
def test_every_tensor_is_what_the_integers_say(form: Form, seed: int, tmp_path: Path) -> None:
    model = onnx.load(quantized.quantised(quantized.network(seed, pooled=False), tmp_path, form))
    images = quantized.pictures(seed, 8)
    got, expected = run_all(model, images), truth.answers(model, image=images)
    assert any(array.dtype.kind in "iu" and array.shape[:1] == (8,) for array in got.values())
    for name, array in got.items():
        np.testing.assert_array_equal(array, expected[name], name)


@pytest.mark.parametrize("form", list(Form))
def test_it_equals_the_unfused_graph_where_fp32_adds_exactly(form: Form, tmp_path: Path) -> None:
    path = quantized.quantised(quantized.network(1, blocks=4), tmp_path, form)
    model, images = quantized.with_binary_scales(onnx.load(path)), quantized.pictures(2, 32)
    got, expected = run_all(model, images), run_unfused(with_all_tensors(model), image=images)
    assert got.keys() == expected.keys()
    for name, array in got.items():
        np.testing.assert_array_equal(array, expected[name], name)


def test_rounding_of_sums_in_the_unfused_graph_moves_few_integers_by_one_step(tmp_path: Path) -> None:
    model = onnx.load(quantized.quantised(quantized.network(4, blocks=4), tmp_path))
    images = quantized.pictures(3, 64)
    got, expected = run_all(model, images), run_unfused(with_all_tensors(model), image=images)
    steps = [
        np.abs(got[name].astype(int) - expected[name].astype(int)).ravel()
        for name in got
        if got[name].dtype.kind == "u"
    ]
    assert np.concatenate(steps).max() <= 1
    assert np.concatenate(steps).mean() < 1e-4


def test_the_number_of_images_need_not_be_that_of_the_graph(tmp_path: Path) -> None:
    path = quantized.quantised(quantized.network(0), tmp_path)
    images = quantized.pictures(0, 5)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "two.onnx")
    with int8_emulation.start(path) as free, int8_emulation.start(tmp_path / "two.onnx") as fixed:
        (one,), (other,) = free(image=images).values(), fixed(image=images).values()
    np.testing.assert_array_equal(one, other)


def layer(
    op: str, codes: Array, scale: Array, *, axis: int = 0, bias: Array | None = None, **settings: Any
) -> onnx.ModelProto:
    """One product of a UINT8 tensor `x` of zero point 3 and scale 0.5 with constants of type INT8."""
    constants = {"s": np.float32(0.5), "z": np.uint8(3), "codes": codes, "ws": scale.astype(np.float32)}
    constants |= {"wz": np.zeros(scale.shape, np.int8)} | ({} if bias is None else {"bias": bias.astype(np.float32)})
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["xd"], "dequantize"),
        helper.make_node("DequantizeLinear", ["codes", "ws", "wz"], ["w"], "weights", axis=axis),
        helper.make_node(op, ["xd", "w", *([] if bias is None else ["bias"])], ["y"], "product", **settings),
    ]
    weights = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    given = helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch"] + [None] * (codes.ndim - 1))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "layer", [given], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_long_sums_of_large_weights_are_exact() -> None:
    codes = np.full((1, 512, 3, 3), 127, np.int8)
    codes[0, 5, 1, 2] = -128
    images = np.full((1, 512, 3, 3), 255, np.uint8)
    images[0, 7, 0, 0] = 254
    expected = ((images.astype(int) - 3) * codes).sum()
    assert expected > 1 << 26
    assert expected % 8  # FP32 cannot hold it
    assert run(layer("Conv", codes, np.array([1.0])), x=images)["y"].item() == np.float32(expected * 0.5)
    negative = layer("Conv", codes, np.array([1.0]), bias=np.array([-0.5 * float(expected - 1)]))
    assert run(negative, x=images)["y"].item() == np.float32(0.5 * expected + float(np.float32(-0.5 * (expected - 1))))


def test_a_transposed_convolution_with_groups_has_a_scale_for_each_channel() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (4, 3, 2, 2)).astype(np.int8)
    model = layer("ConvTranspose", codes, np.array([0.25, 0.5, 2.0]), axis=1, group=2, bias=np.arange(6))
    images = rng.integers(0, 256, (2, 4, 5, 5)).astype(np.uint8)
    emulated = int8_emulation.emulate(model)
    assert "xd" not in {name for node in emulated.graph.node for name in node.input}
    np.testing.assert_array_equal(run(model, x=images)["y"], run_unfused(model, x=images)["y"])


def test_a_gemm_has_its_factors() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (6, 5)).astype(np.int8)
    model = layer("Gemm", codes, np.full(5, 0.25), axis=1, bias=np.arange(5), alpha=2.0, beta=0.5)
    rows = rng.integers(0, 256, (3, 6)).astype(np.uint8)
    expected = 2 * ((rows.astype(int) - 3) @ codes.astype(int)) * 0.125 + 0.5 * np.arange(5)
    np.testing.assert_array_equal(run(model, x=rows)["y"], expected.astype(np.float32))


def test_a_product_of_two_activations_is_exact() -> None:
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
        g (uint8[N,2,600] a, int8[N,600,3] b) => (float[N,2,3] y) <float s = {0.3}, uint8 z = {9}, int8 o = {-4}> {
          left = DequantizeLinear(a, s, z)
          right = DequantizeLinear(b, s, o)
          y = MatMul(left, right)
        }""")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 2, 600)).astype(np.uint8), rng.integers(-128, 128, (2, 600, 3)).astype(np.int8)
    scale = float(np.float32(0.3))
    expected = ((a.astype(int) - 9) @ (b.astype(int) + 4)) * (scale * scale)
    np.testing.assert_array_equal(run(model, a=a, b=b)["y"], expected.astype(np.float32))


@pytest.mark.parametrize("scale", ["s", "k"])
def test_a_layer_whose_factor_has_no_constant_scale_stays(scale: str) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18]>
        g (uint8[N,4] x, float k) => (float[N,2] y)
        <float s = {0.5}, uint8 z = {3}, int8[4,2] c = {1,2,3,4,5,6,7,8}, int8 o = {0}> {
          xd = DequantizeLinear(x, SCALE, z)
          w = DequantizeLinear(c, s, o)
          y = MatMul(xd, w)
        }""".replace("SCALE", scale)
    )
    operators = [node.op_type for node in int8_emulation.emulate(model).graph.node]
    assert operators.count("DequantizeLinear") == (2 if scale == "k" else 0)


def test_the_results_are_fp16_where_the_scales_are() -> None:
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 19]>
        g (uint8[N,4] x) => (float16[N,2] y)
        <uint8 z = {3}, int8[4,2] c = {1,2,3,4,5,6,7,8}, int8 o = {0}> {
          xd = DequantizeLinear(x, s, z)
          w = DequantizeLinear(c, s, o)
          y = MatMul(xd, w)
        }""")
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float16), "s"))
    result = run(model, x=np.full((1, 4), 5, np.uint8))["y"]
    np.testing.assert_array_equal(result, np.array([[8, 10]], np.float16))


def test_activations_of_sixteen_bits_are_refused() -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        g (uint16[N,1,2,2] x) => (float[N,1,2,2] y)
        <float s = {0.5}, uint16 z = {3}, int8[1,1,1,1] c = {1}, int8 o = {0}> {
          xd = DequantizeLinear(x, s, z)
          w = DequantizeLinear(c, s, o)
          [product] y = Conv(xd, w)
        }""")
    with pytest.raises(StageFailed, match="Conv product is no product of 8-bit activations and constants") as caught:
        run(model, x=np.zeros((1, 1, 2, 2), np.uint16))
    assert "8 bits" in caught.value.remedy


def test_there_is_no_emulation_on_cuda(tmp_path: Path) -> None:
    with pytest.raises(MissingBackend, match="not emulated on cuda"), int8_emulation.start(tmp_path / "x.onnx", "cuda"):
        pass
