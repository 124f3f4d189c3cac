"""FP16 emulation, on graphs small enough to compute by hand and on a whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploytool.backends import fp16_emulation, onnxruntime
from deploytool.data import golden
from deploytool.errors import MissingBackend
from deploytool.parity import metrics


def product_graph(folder: Path, *factors: float) -> Path:
    """Writes a graph that casts x to FP16, multiplies it by the factors one after the other, and casts it back."""
    names = [f"x{index}" for index in range(len(factors) + 1)]
    nodes = [helper.make_node("Cast", ["x"], [names[0]], "in", to=TensorProto.FLOAT16)]
    nodes += [
        helper.make_node("Mul", [names[index], f"f{index}"], [names[index + 1]], f"/layer{index}/Mul")
        for index in range(len(factors))
    ]
    nodes.append(helper.make_node("Cast", [names[-1]], ["y"], "out", to=TensorProto.FLOAT))
    weights = [
        numpy_helper.from_array(np.array(factor, np.float16), f"f{index}") for index, factor in enumerate(factors)
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in "xy"]
    graph = helper.make_graph(nodes, "product", values[:1], values[1:], weights)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_overflow_is_visible_that_onnx_runtime_hides_on_a_cpu(tmp_path: Path) -> None:
    path, x = product_graph(tmp_path, 300.0, 300.0, 1e-4), np.array([8.0], np.float32)
    with onnxruntime.start(path) as runtime, fp16_emulation.start(path) as emulation:
        assert runtime(x=x)["y"] == pytest.approx(72, rel=1e-2)
        assert emulation(x=x)["y"] == np.inf
    assert fp16_emulation.node_ranges(path, {"x": x})["/layer1/Mul"] == pytest.approx(720_000)


def test_results_are_rounded_as_numpy_rounds_them(tmp_path: Path) -> None:
    path = product_graph(tmp_path, 1.1, 0.3, 7.7)
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    expected = x.astype(np.float16)
    for factor in (1.1, 0.3, 7.7):
        expected = expected * np.float16(factor)
    with fp16_emulation.start(path) as session:
        np.testing.assert_array_equal(session(x=x)["y"], expected.astype(np.float32))


def test_underflow_becomes_zero(tmp_path: Path) -> None:
    path = product_graph(tmp_path, 1e-4, 1e-4, 60000.0, 1000.0)
    with fp16_emulation.start(path) as session:
        assert session(x=np.array([1.0], np.float32))["y"] == 0


def test_a_whole_model_is_within_its_tolerance_and_range(finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    path = finished / "fp16" / "model.onnx"
    with fp16_emulation.start(path) as emulation, onnxruntime.start(path) as runtime:
        emulated, computed = emulation(**sample.inputs), runtime(**sample.inputs)
    tolerance = metrics.tolerances(sample.noise, {}).fp16
    assert not metrics.check(emulated, sample.reference, "FP64", tolerance).broken
    assert (emulated["logits"] != computed["logits"]).any()
    ranges = fp16_emulation.node_ranges(path, sample.inputs)
    assert any(name.startswith("/classifier/") for name in ranges)
    assert 0 < max(ranges.values()) < 1000


def test_fp16_inputs_are_accepted(finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    with fp16_emulation.start(finished / "fp16" / "model.onnx") as session:
        outputs = session(input=sample.inputs["input"].astype(np.float16))
    assert outputs["logits"].dtype == np.float32


def test_emulation_runs_on_the_cpu_only(tmp_path: Path) -> None:
    with (
        pytest.raises(MissingBackend, match="not emulated on cuda"),
        fp16_emulation.start(tmp_path / "model.onnx", "cuda"),
    ):
        pass
