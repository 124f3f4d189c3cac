from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploytool.artifact import Artifact, Given, Kind
from deploytool.errors import StageFailed
from deploytool.spec import Job
from deploytool.stages import halve
from tests.conftest import QUICK, TINY, shelf


def types(graph: onnx.ModelProto) -> list[int]:
    return [value.type.tensor_type.elem_type for value in (*graph.graph.input, *graph.graph.output)]


def matmul(weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]], folder: Path) -> Given:
    """A graph of one matrix product with that weight, as a stage would be given it."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["logits"], "product")],
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", len(weight)])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight")],
    )
    path = folder / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return Given((Artifact(Kind.GRAPH, path, "digest", "key", "simplify", {}, 0.0, fresh=True),))


def test_the_graph_is_fp16_with_fp32_inputs_and_outputs(finished: Path) -> None:
    graph = onnx.load(finished / "halve" / "graph.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert types(graph) == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert halve.count_half(graph) == (4, 4)
    assert {weight.data_type for weight in graph.graph.initializer} <= {TensorProto.FLOAT16, TensorProto.INT64}


def test_the_fp32_graph_is_not_taken_for_fp16(finished: Path) -> None:
    assert halve.count_half(onnx.load(finished / "simplify" / "graph.onnx")) == (0, 4)


def test_io_fp16_leaves_no_cast(finished: Path, tmp_path: Path) -> None:
    given = Given(shelf(finished).chain(Kind.GRAPH)[:3])
    notes = halve.make(Job(TINY, dataclasses.replace(QUICK, io="fp16")), tmp_path / "graph.onnx", given)
    assert notes["casts"] == 0
    assert types(onnx.load(tmp_path / "graph.onnx")) == [TensorProto.FLOAT16, TensorProto.FLOAT16]


def test_a_graph_that_stays_fp32_is_refused(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halve, "convert_float_to_float16", lambda graph, **_: graph)
    with pytest.raises(StageFailed, match="only 0 of 4 Conv, MatMul and Gemm nodes would run in FP16"):
        halve.make(Job(TINY, QUICK), tmp_path / "graph.onnx", Given(shelf(finished).chain(Kind.GRAPH)[:3]))
    assert not (tmp_path / "graph.onnx").exists()


def test_weights_are_clipped_at_the_limits_of_fp16_and_not_before(tmp_path: Path) -> None:
    weight = np.array([[20000.0, -60000.0, 1e6, 1e-7, 3e-8]], np.float32)
    given = matmul(weight, tmp_path)
    notes = halve.make(Job(TINY, QUICK), tmp_path / "half.onnx", given)
    assert notes["weights"] == {"all": 5, "flushed": 1, "subnormal": 1}
    (kept,) = onnx.load(tmp_path / "half.onnx").graph.initializer
    got = numpy_helper.to_array(kept)[0]
    np.testing.assert_array_equal(got[:3], np.array([20000, -60000, 65504], np.float16))
    assert got[3] == np.float16(1e-7)
