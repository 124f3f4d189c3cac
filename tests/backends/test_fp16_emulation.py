"""FP16 as hardware computes it, on graphs small enough to do by hand."""

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


def chain(folder: Path, *factors: float) -> Path:
    """x, cast to FP16, times one factor after the other, cast back."""
    names = [f"x{place}" for place in range(len(factors) + 1)]
    nodes = [helper.make_node("Cast", ["x"], [names[0]], "in", to=TensorProto.FLOAT16)]
    nodes += [
        helper.make_node("Mul", [names[place], f"f{place}"], [names[place + 1]], f"/layer{place}/Mul")
        for place in range(len(factors))
    ]
    nodes.append(helper.make_node("Cast", [names[-1]], ["y"], "out", to=TensorProto.FLOAT))
    weights = [
        numpy_helper.from_array(np.array(factor, np.float16), f"f{place}") for place, factor in enumerate(factors)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in "xy"]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_an_overflow_that_onnx_runtime_hides_on_a_cpu_is_seen(tmp_path: Path) -> None:
    path, x = chain(tmp_path, 300.0, 300.0, 1e-4), np.array([8.0], np.float32)
    with onnxruntime.start(path) as hiding, fp16_emulation.start(path) as honest:
        assert hiding(x=x)["y"] == pytest.approx(72, rel=1e-2)
        assert honest(x=x)["y"] == np.inf
    assert fp16_emulation.node_ranges(path, {"x": x})["/layer1/Mul"] == pytest.approx(720_000)


def test_every_result_is_rounded_as_numpy_rounds_it(tmp_path: Path) -> None:
    path = chain(tmp_path, 1.1, 0.3, 7.7)
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    expected = x.astype(np.float16)
    for factor in (1.1, 0.3, 7.7):
        expected = expected * np.float16(factor)
    with fp16_emulation.start(path) as session:
        np.testing.assert_array_equal(session(x=x)["y"], expected.astype(np.float32))


def test_small_values_become_zero_as_they_do_in_fp16(tmp_path: Path) -> None:
    path = chain(tmp_path, 1e-4, 1e-4, 60000.0, 1000.0)
    with fp16_emulation.start(path) as session:
        assert session(x=np.array([1.0], np.float32))["y"] == 0


def test_a_whole_graph_stays_within_the_tolerance_and_off_the_ends(finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    path = finished / "fp16" / "model.onnx"
    with fp16_emulation.start(path) as session, onnxruntime.start(path) as hiding:
        got, other = session(**sample.inputs), hiding(**sample.inputs)
    assert not metrics.check(got, sample.reference, "FP64", metrics.tolerances(sample.noise, {}).fp16).broken
    assert (got["logits"] != other["logits"]).any()
    largest = fp16_emulation.node_ranges(path, sample.inputs)
    assert any(name.startswith("/classifier/") for name in largest)
    assert 0 < max(largest.values()) < 1000


def test_halves_are_taken_as_they_are(finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    with fp16_emulation.start(finished / "fp16" / "model.onnx") as session:
        halves = session(input=sample.inputs["input"].astype(np.float16))
    assert halves["logits"].dtype == np.float32


def test_it_emulates_on_the_cpu_only(tmp_path: Path) -> None:
    with (
        pytest.raises(MissingBackend, match="not emulated on cuda"),
        fp16_emulation.start(tmp_path / "model.onnx", "cuda"),
    ):
        pass
