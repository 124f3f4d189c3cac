"""FP8 as quantised, against plain NumPy: every number of E4M3, extremes, convolutions and products."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploytool.backends import e4m3, fp8_emulation, onnxruntime
from deploytool.errors import MissingBackend
from tests.backends import fp8_truth

Array = npt.NDArray[Any]

SCALE = np.float16(0.013)
EXTREMES = np.array([0.0, -0.0, 1e-7, 2.0**-10, 2.0**-9, -3e-3, 448.0, 464.0, 1e4, -1e9, np.inf, -np.inf, np.nan])


def network(op: str, shape: tuple[int, ...], codes: Array, kind: int = TensorProto.FLOAT16, **settings: Any) -> Any:
    """A product of an input in FP32 and weights in E4M3, with a bias, in FP16 or FP32; the output is of that type."""
    number = helper.tensor_dtype_to_np_dtype(kind)
    channels = codes.shape[0] if op == "Conv" or settings.get("transB") else codes.shape[-1]
    arrays = {
        "xs": np.array(SCALE, number),
        "ws": np.array(0.003, number),
        "w": codes.astype(e4m3.DTYPE),
        "zero": np.zeros((), e4m3.DTYPE),
        "bias": np.linspace(-2, 2, channels).astype(number),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=kind),
        helper.make_node("QuantizeLinear", ["narrow", "xs", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "zero"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "zero"], ["dw"]),
        helper.make_node(op, ["dx", "dw", "bias"][: 2 if op == "MatMul" else 3], ["y"], "product", **settings),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model: onnx.ModelProto, x: Array) -> Array:
    with fp8_emulation.start(model.SerializeToString()) as session:
        return session(x=x)["y"]


def weights(*shape: int) -> Array:
    return fp8_truth.rounded(np.random.default_rng(2).normal(size=shape) * 100)


def exact(sums: Array, bias: Array, kind: type[np.floating[Any]]) -> Array:
    """Sums with scale and bias, rounded to FP32 and from there to a type."""
    scale = float(kind(SCALE)) * float(kind(0.003))
    with np.errstate(over="ignore"):
        return (sums * scale + bias).astype(np.float32).astype(kind)


def test_rounding_is_that_of_the_standard_for_every_number_and_between() -> None:
    every = fp8_truth.POSITIVE
    between = (every[1:] + every[:-1]) / 2
    values = np.concatenate([every, between, np.nextafter(between, 0), np.nextafter(between, 500), EXTREMES])
    for signed in (values, -values):
        single = signed.astype(np.float32)
        np.testing.assert_array_equal(e4m3.nearest(single).astype(np.float64), fp8_truth.rounded(single))
    assert len(every) == 127
    assert (every[-1], every[1]) == (e4m3.LARGEST, e4m3.SMALLEST)
    assert every[-1] - every[-2] == e4m3.STEP


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_extremes_are_quantised_as_onnx_says(kind: int) -> None:
    number = helper.tensor_dtype_to_np_dtype(kind)
    model = network("MatMul", (1,), np.ones((1, 1)), kind)
    x = np.concatenate([EXTREMES, EXTREMES * float(SCALE)]).astype(np.float32).reshape(-1, 1)
    with np.errstate(over="ignore"):
        codes = fp8_truth.quantised(x.astype(number), number.type(SCALE))
    np.testing.assert_array_equal(run(model, x), exact(codes, np.zeros(()), number.type))
    assert np.isnan(codes).sum() == 2  # NaN alone: an infinite value is 448
    assert np.nanmax(codes) == 448


@pytest.mark.parametrize(
    ("stride", "pads", "dilation", "group", "kernel"),
    [
        (1, 0, 1, 1, 1),
        (2, 0, 1, 1, 1),
        (1, 1, 1, 1, 3),
        (2, 2, 1, 2, 3),
        (1, 2, 2, 1, 3),
        (1, 1, 1, 8, 3),
        (3, 1, 2, 4, 2),
    ],
)
def test_a_convolution_is_exact(stride: int, pads: int, dilation: int, group: int, kernel: int) -> None:
    codes = weights(8, 8 // group, kernel, kernel)
    settings: dict[str, Any] = {
        "strides": [stride] * 2,
        "pads": [pads] * 4,
        "dilations": [dilation] * 2,
        "group": group,
    }
    model = network("Conv", (8, 9, 9), codes, **settings)
    x = np.random.default_rng(1).normal(size=(3, 8, 9, 9)).astype(np.float32) * 3
    sums = fp8_truth.convolution(fp8_truth.quantised(x.astype(np.float16), SCALE), codes, stride, pads, dilation, group)
    bias = np.linspace(-2, 2, 8).astype(np.float16).astype(np.float64).reshape(1, -1, 1, 1)
    np.testing.assert_array_equal(run(model, x), exact(sums, bias, np.float16))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_of_matrices_is_exact(transposed: bool) -> None:
    codes = weights(300, 7)
    stored = codes.T if transposed else codes
    model = network("Gemm", (300,), stored, **({"transB": 1} if transposed else {}))
    x = np.random.default_rng(1).normal(size=(5, 300)).astype(np.float32)
    sums = fp8_truth.quantised(x.astype(np.float16), SCALE) @ codes
    bias = np.linspace(-2, 2, 7).astype(np.float16).astype(np.float64)
    np.testing.assert_array_equal(run(model, x), exact(sums, bias, np.float16))


def test_sums_that_cancel_are_exact_where_fp32_loses_them() -> None:
    """448² and the smallest product are 36 bits apart: FP32 has 24."""
    scale = float(np.float32(SCALE))
    x = np.array([[448 * scale, 2.0**-9 * scale, 448 * scale]], np.float32)
    model = network("MatMul", (3,), np.array([[448.0], [2.0**-9], [-448.0]]), TensorProto.FLOAT)
    assert run(model, x)[0, 0] == np.float32(2.0**-18 * scale * float(np.float32(0.003)))
    with onnxruntime.start(model.SerializeToString(), optimise=False) as session:
        assert session(x=x)["y"][0, 0] == 0


@pytest.mark.parametrize(
    "settings",
    [{"auto_pad": "SAME_UPPER"}, {"scale": np.array([0.003] * 8, np.float16)}],
)
def test_what_is_not_exact_stays_as_it_is(settings: dict[str, Any]) -> None:
    scale = settings.pop("scale", None)
    model = network("Conv", (8, 9, 9), weights(8, 8, 3, 3), **settings)
    if scale is not None:
        (old,) = (each for each in model.graph.initializer if each.name == "ws")
        old.CopyFrom(numpy_helper.from_array(scale, "ws"))
    assert [node.op_type for node in fp8_emulation.emulate(model).graph.node].count("Conv") == 1


def test_a_gemm_with_factors_stays_as_it_is() -> None:
    model = network("Gemm", (8,), weights(8, 3), alpha=0.5)
    assert fp8_emulation.emulate(model).SerializeToString() == model.SerializeToString()


def test_it_runs_on_a_cpu_alone() -> None:
    model = network("MatMul", (1,), np.ones((1, 1)))
    with (
        pytest.raises(MissingBackend, match="FP8 arithmetic is not emulated on cuda"),
        fp8_emulation.start(model.SerializeToString(), "cuda"),
    ):
        pass
