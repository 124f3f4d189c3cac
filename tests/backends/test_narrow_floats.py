"""BF16: the rule for weights, and the emulation of a graph, bit by bit against integer arithmetic on bit patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from deploytool.backends import fp16_emulation
from deploytool.backends.narrow_floats import BF16
from deploytool.precision import bf16

Floats = npt.NDArray[np.float32]

LARGEST = float.fromhex("0x1.fep127")
LAYERS = """<ir_version: 10, opset_import: ["" : 22]>
g (float[n,16] x) => (float[n,16] y) {
    p = MatMul(x, w) a = Add(p, b) r = Relu(a) m = Mul(r, a) q = Div(m, d) y = Sqrt(q)
}"""


def rounded(values: Floats) -> Floats:
    """The nearest numbers with the upper 16 bits of FP32, ties to even, by adding half a step to the bit pattern."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def drawn(*shape: int) -> Floats:
    """Numbers of 1 to 2, of which a product in FP32 and a sum of 16 products are exact after rounding to BF16."""
    values = 1 + np.random.default_rng(sum(shape)).random(shape)
    return np.where(np.arange(values.size).reshape(shape) % 3, values, -values).astype(np.float32)


def saved(folder: Path, text: str, **weights: Floats) -> Path:
    single = onnx.parser.parse_model(text)
    single.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    path = folder / "model.onnx"
    onnx.save(bf16.convert(single).half, path)
    return path


def test_every_result_is_rounded_as_the_bit_patterns_say(tmp_path: Path) -> None:
    x, weights = drawn(64, 16), {"w": drawn(16, 16), "b": drawn(16), "d": np.abs(drawn(16))}
    with fp16_emulation.start(saved(tmp_path, LAYERS, **weights)) as session:
        got = session(x=x)["y"]
    w, b, d = (rounded(value) for value in weights.values())
    product = rounded((rounded(x).astype(np.float64) @ w.astype(np.float64)).astype(np.float32))
    total = rounded(product + b)
    kept = np.maximum(total, 0)
    expected = rounded(np.sqrt(rounded(rounded(kept * total) / d)))
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))
    assert (expected > 0).mean() > 0.2


def test_without_rounding_only_the_weights_are_rounded(tmp_path: Path) -> None:
    x, weights = drawn(8, 16), {"w": drawn(16, 16), "b": drawn(16), "d": np.abs(drawn(16))}
    path = saved(tmp_path, LAYERS, **weights)
    single = onnx.parser.parse_model(LAYERS)
    single.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    original = tmp_path / "single.onnx"
    onnx.save(single, original)
    with (
        fp16_emulation.start_without_rounding(path) as converted,
        fp16_emulation.start_with_rounded_weights(original, path) as reference,
        fp16_emulation.start(path) as emulated,
    ):
        np.testing.assert_array_equal(converted(x=x)["y"], reference(x=x)["y"])
        assert (emulated(x=x)["y"] != converted(x=x)["y"]).any()
    w, b, d = (rounded(value) for value in weights.values())
    total = (x.astype(np.float64) @ w + b).clip(0) * (x.astype(np.float64) @ w + b)
    with fp16_emulation.start_without_rounding(path) as converted:
        np.testing.assert_allclose(converted(x=x)["y"], np.sqrt(total / d), rtol=1e-5, atol=1e-5)


def test_a_sum_beyond_the_range_is_infinite_and_one_beyond_that_of_fp16_is_not(tmp_path: Path) -> None:
    path = saved(tmp_path, '<ir_version: 10, opset_import: ["" : 22]> g (float[n] x) => (float[n] y) {y = Add(x, x)}')
    with fp16_emulation.start(path) as session:
        got = session(x=np.array([1e5, 1.0e38, 1.7e38, 1e-40], np.float32))["y"]
    twice = rounded(2 * rounded(np.array([1e5, 1.0e38, 1e-40], np.float32)))
    np.testing.assert_array_equal(got, [twice[0], twice[1], np.inf, twice[2]])


def test_finite_weights_stay_finite_and_other_weights_than_zero_stay_so() -> None:
    lowest = np.finfo(np.float32).min
    values = np.array([lowest, -lowest, np.inf, 1e-45, -1e-45, 0.0, -0.0, 1.00390625, 1.01171875], np.float32)
    expected = [-LARGEST, LARGEST, np.inf, 2.0**-133, -(2.0**-133), 0.0, -0.0, 1.0, 1.015625]
    got = BF16.round_weights(values).astype(np.float32)
    np.testing.assert_array_equal(got, np.array(expected, np.float32))
    assert np.array_equal(np.signbit(got), np.signbit(values))
    assert (BF16.largest, BF16.smallest) == (LARGEST, 2.0**-133)


def test_bf16_numbers_are_kept_by_the_rule_for_weights() -> None:
    """All 65,536 bit patterns; NaN stays NaN."""
    numbers = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    got = BF16.round_weights(numbers).astype(np.float32)
    assert np.array_equal(got, numbers, equal_nan=True)


@pytest.mark.parametrize("shape", [(), (0,), (1, 3, 2)])
def test_a_weight_of_a_graph_keeps_its_name_and_shape(shape: tuple[int, ...]) -> None:
    weight = fp16_emulation.round_weight(numpy_helper.from_array(np.full(shape, 0.1, np.float32), "weight"), BF16)
    assert (weight.name, tuple(weight.dims), weight.data_type) == ("weight", shape, TensorProto.BFLOAT16)
