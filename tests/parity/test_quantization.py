from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploytool.backends import e4m3, fp8_emulation
from deploytool.errors import BadInput
from deploytool.parity import quantization
from deploytool.results.quantization import QuantizedTensor, TensorKind
from tests.int8 import quantized
from tests.int8.quantized import Form


def dense(scale: float = 0.1, rows: int = 2) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A product of `x` and weights, and its graph with both quantised; the product is named alike."""
    source = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
        g (float[N,2] x) => (float[N,2] y) { [product] y = MatMul(x, weight) }""")
    graph = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
        g (float[N,2] x) => (float[N,2] y) <int8 z = {0}, float ws = {0.5}, int8[2,2] codes = {2, 0, 0, 2}> {
          q = QuantizeLinear(x, s, z)
          d = DequantizeLinear(q, s, z)
          w = DequantizeLinear(codes, ws, z)
          [product] y = MatMul(d, w)
        }""")
    values = np.array([[1, 0], [0, 1.25]], np.float32)
    source.graph.initializer.append(numpy_helper.from_array(values, "weight"))
    graph.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), "s"))
    return source, graph


def by_name(found: tuple[QuantizedTensor, ...]) -> dict[str, QuantizedTensor]:
    return {each.tensor: each for each in found}


def test_clipping_and_noise_are_those_of_the_definition() -> None:
    source, graph = dense()
    x = np.array([[20.0, 1.0], [-0.03, 0.5], [-12.8, 0.0], [-13.0, 0.0], [1.0, 1.0]], np.float32)
    found = by_name(quantization.measure(source, graph, {"x": x}))
    assert set(found) == {"x", "weight"}
    errors = np.array([7.3, -0.03, 0.2])
    assert found["x"].clipped == 2 / 10  # 20 and -13; the range is -12.8 to 12.7
    assert found["x"].noise_db == pytest.approx(10 * math.log10((x.astype(float) ** 2).sum() / (errors**2).sum()), 1e-5)
    assert found["x"].own_db == pytest.approx(found["x"].noise_db, 1e-5)
    assert found["x"].kind is TensorKind.ACTIVATION
    assert found["weight"].noise_db == pytest.approx(10 * math.log10((1 + 1.25**2) / 0.25**2))
    assert (found["weight"].kind, found["weight"].node) == (TensorKind.WEIGHT, "product")
    assert found["weight"].clipped == 0


def test_in_fp8_clipping_begins_a_step_beyond_448_and_rounding_is_relative() -> None:
    source, _ = dense()
    graph = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        g (float[N,2] x) => (float[N,2] y) {
          q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(codes, s, z)
          [product] y = MatMul(d, w)
        }""")
    arrays = {"s": np.array(0.5, np.float32), "z": np.zeros((), e4m3.DTYPE), "codes": e4m3.nearest(np.eye(2) * 2)}
    graph.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    x = np.array([[239.0, -241.0], [17.0, 0.3]], np.float32)  # 478 and -482 steps; 34, between 32 and 36; 0.6
    found = by_name(quantization.measure(source, graph, {"x": x}, fp8_emulation.emulate))
    assert set(found) == {"x", "weight"}
    assert found["x"].clipped == 1 / 4
    errors = np.array([239 - 224, 241 - 224, 17 - 16, 0.3 - 0.3125])
    assert found["x"].own_db == pytest.approx(10 * math.log10((x.astype(float) ** 2).sum() / (errors**2).sum()), 1e-5)


def test_the_worst_comes_first_and_what_is_exact_last() -> None:
    source, graph = dense(0.5)
    found = quantization.measure(source, graph, {"x": np.array([[1.5, 2.0]], np.float32)})
    assert [each.tensor for each in found] == ["weight", "x"]
    assert found[-1].noise_db is None


@pytest.mark.parametrize("form", list(Form))
def test_every_activation_and_weight_of_a_network_is_found(form: Form, tmp_path: Path) -> None:
    source = quantized.network(4, blocks=3)
    model = onnx.load(quantized.quantised(source, tmp_path, form))
    found = by_name(quantization.measure(source, model, {"image": quantized.pictures(1, 6)}))
    names = {node.input[1] for node in source.graph.node if node.op_type in ("Conv", "Gemm")}
    assert {name for name, each in found.items() if each.kind is TensorKind.WEIGHT} == names
    assert {"image", source.graph.output[0].name} <= set(found)
    assert all(each.noise_db is not None and 15 < each.noise_db < 70 for each in found.values())
    assert all(each.clipped < 0.004 for each in found.values())  # rectifiers are no clipping
    assert all(each.own_db is not None and each.own_db > 20 for each in found.values())


def test_a_layer_with_a_wrong_scale_is_the_worst(tmp_path: Path) -> None:
    source = quantized.network(2, blocks=3)
    model = onnx.load(quantized.quantised(source, tmp_path))
    images = {"image": quantized.pictures(1, 6)}
    target = [node for node in model.graph.node if node.op_type == "Conv"][2]
    before = by_name(quantization.measure(source, model, images))
    quantizer = next(
        node for node in model.graph.node if node.op_type == "QuantizeLinear" and target.output[0] in node.input
    )
    scale = next(each for each in model.graph.initializer if each.name == quantizer.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / np.float32(20), scale.name))
    after = quantization.measure(source, model, images)
    worst = min(after, key=lambda each: each.own_db if each.own_db is not None else math.inf)
    assert worst.clipped > 0.2
    assert worst.clipped > 10 * before[worst.tensor].clipped
    assert worst.tensor == target.output[0]
    assert after[0].noise_db is not None
    assert after[0].noise_db < 10


def test_a_graph_of_another_source_is_refused(tmp_path: Path) -> None:
    source, _ = dense()
    model = onnx.load(quantized.quantised(quantized.network(0), tmp_path))
    with pytest.raises(BadInput, match="no tensor of its source"):
        quantization.measure(source, model, {"image": quantized.pictures(0, 1)})


def test_a_rectifier_that_the_integers_replace_does_not_count_as_clipping() -> None:
    source = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
        g (float[N,2] x) => (float[N,2] y) { p = Abs(x) m = Sub(x, p) r = Relu(x) y = Sub(r, m) }""")
    graph = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
        g (float[N,2] x) => (float[N,2] y) <float s = {0.1}, uint8 z = {0}> {
          p = Abs(x) m = Sub(x, p) i = Identity(x)
          q = QuantizeLinear(i, s, z) d = DequantizeLinear(q, s, z) y = Sub(d, m)
        }""")
    source.graph.node[2].input[0] = "i"
    source.graph.node.insert(2, onnx.helper.make_node("Identity", ["x"], ["i"]))
    (found,) = quantization.measure(source, graph, {"x": np.array([[-5.0, 1.0]], np.float32)})
    assert (found.tensor, found.operator, found.clipped) == ("r", "Relu", 0.0)
    assert found.noise_db is None or found.noise_db > 100
