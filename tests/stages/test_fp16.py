"""Tests of the fp16 stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from deploytool.backends.narrow_floats import FP16
from deploytool.errors import BadInput, StageFailed
from deploytool.loading.stage_inputs import StageInputs
from deploytool.precision import conversion, heavy_nodes
from deploytool.precision.search import Evaluation, Kept, SearchResult
from deploytool.results.artifact import Artifact, Kind
from deploytool.spec import Job, Precision, Stage
from deploytool.stages import fp16 as stages_fp16
from tests.conftest import QUICK, TINY, artifacts, modules_of


def types(graph: onnx.ModelProto) -> list[int]:
    return [value.type.tensor_type.elem_type for value in (*graph.graph.input, *graph.graph.output)]


def matmul(weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]], folder: Path) -> StageInputs:
    """The inputs of the stage: a graph of one matrix product with this weight."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["logits"], "product")],
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", len(weight)])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight")],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return StageInputs((Artifact(Kind.GRAPH, path, "digest", "key", Stage.SIMPLIFY, {}, 0.0, fresh=True),))


def test_the_graph_is_fp16_with_fp32_inputs_and_outputs(finished: Path) -> None:
    graph = onnx.load(finished / "fp16" / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert types(graph) == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert heavy_nodes.count(graph, FP16) == (4, 4)
    assert {weight.data_type for weight in graph.graph.initializer} <= {TensorProto.FLOAT16, TensorProto.INT64}


def test_no_node_of_the_fp32_graph_counts_as_fp16(finished: Path) -> None:
    assert heavy_nodes.count(onnx.load(finished / "simplify" / "model.onnx"), FP16) == (0, 4)


def test_a_node_that_reads_a_tensor_of_unknown_type_counts_as_none_in_fp16(tmp_path: Path) -> None:
    matmul(np.ones((4, 2), np.float32), tmp_path)
    graph = onnx.load(tmp_path / "model.onnx")
    graph.opset_import.append(helper.make_opsetid("com.example", 1))
    graph.graph.node[0].input[0] = "unknown"
    graph.graph.node.insert(0, helper.make_node("Own", ["input"], ["unknown"], domain="com.example"))
    assert heavy_nodes.count(graph, FP16) == (0, 1)


def test_layers_that_compute_in_fp64_are_named() -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
    net (float[N,4] x, double[4,4] w) => (double[N,4] y) {
      wide = Cast<to=11>(x)
      y = MatMul(wide, w)
    }"""
    graph = parser.parse_model(text)
    graph.graph.node[1].name = "product"
    with pytest.raises(StageFailed, match=r"only 0 of 1 .*; 1 in FP64, the first the .*product.*, stay so") as raised:
        heavy_nodes.check(graph, (), FP16, "deploy the FP32 graph")
    assert raised.value.remedy == "let the model compute them in FP32, or deploy the FP32 graph"


def test_a_graph_with_fp16_inputs_and_outputs_has_no_casts(finished: Path, tmp_path: Path) -> None:
    inputs = StageInputs(artifacts(finished).chain(Kind.GRAPH)[:3])
    notes = stages_fp16.make(Job(TINY, dataclasses.replace(QUICK, io=Precision.FP16)), tmp_path / "model.onnx", inputs)
    assert notes["casts"] == 0
    assert types(onnx.load(tmp_path / "model.onnx")) == [TensorProto.FLOAT16, TensorProto.FLOAT16]


def test_a_graph_that_stays_in_fp32_is_an_error(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_supports", lambda *_: False)
    with pytest.raises(StageFailed, match="only 0 of 4 Conv, MatMul and Gemm nodes would run in FP16"):
        stages_fp16.make(
            Job(TINY, QUICK), tmp_path / "model.onnx", StageInputs(artifacts(finished).chain(Kind.GRAPH)[:3])
        )
    assert not (tmp_path / "model.onnx").exists()


def test_only_weights_beyond_the_limits_of_fp16_are_clipped(tmp_path: Path) -> None:
    weight = np.array([[20000.0, -60000.0, 1e6, 1e-7, 3e-8]], np.float32)
    notes = stages_fp16.make(Job(TINY, QUICK), tmp_path / "half.onnx", matmul(weight, tmp_path))
    assert notes["weights"] == {"total": 5, "flushed": 1, "subnormal": 1}
    (initializer,) = onnx.load(tmp_path / "half.onnx").graph.initializer
    values = numpy_helper.to_array(initializer)[0]
    np.testing.assert_array_equal(values[:3], np.array([20000, -60000, 65504], np.float16))
    assert values[3] == np.float16(1e-7)


def keeping(*names: str) -> Job:
    return Job(TINY, dataclasses.replace(QUICK, keep_fp32=names))


def before_fp16(run: Path) -> StageInputs:
    return StageInputs(
        tuple(artifact for artifact in artifacts(run).artifacts if artifact.made_by not in ("fp16", "build"))
    )


def test_named_modules_and_nodes_are_kept_in_fp32(finished: Path, tmp_path: Path) -> None:
    notes = stages_fp16.make(keeping("grouped", "/pool/AveragePool"), tmp_path / "model.onnx", before_fp16(finished))
    graph = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert heavy_nodes.count(graph, FP16) == (3, 4)
    kept = {"/grouped/grouped.0/Conv": "grouped.0", "/grouped/grouped.2/Relu": "grouped", "/pool/AveragePool": ""}
    assert notes["kept"] == kept
    assert notes["keep_fp32"] == ["grouped", "/pool/AveragePool"]
    assert notes["remarks"] == ["kept in FP32: grouped, /pool/AveragePool (3 of 13 nodes)"]
    assert notes["casts"] == 6
    all_weights = stages_fp16.make(Job(TINY, QUICK), tmp_path / "plain.onnx", before_fp16(finished))["weights"]
    few_weights = notes["weights"]
    assert isinstance(all_weights, dict)
    assert isinstance(few_weights, dict)
    # the filters of `grouped` are not converted; its biases are shared with other modules
    assert few_weights["total"] == all_weights["total"] - 8 * 4


def test_the_remedy_for_an_unknown_name_contains_a_similar_one(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no module and no FP16 node is named 'group'") as refused:
        stages_fp16.make(keeping("group"), tmp_path / "model.onnx", before_fp16(finished))
    assert "grouped" in refused.value.remedy
    assert not (tmp_path / "model.onnx").exists()


def test_a_graph_that_is_mostly_kept_in_fp32_is_an_error(finished: Path, tmp_path: Path) -> None:
    half = ("stem", "grouped")
    assert stages_fp16.make(keeping(*half), tmp_path / "model.onnx", before_fp16(finished))["heavy_nodes_kept"] == 2
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(StageFailed, match=r"3 of 4 .*, the first the Conv node '.+', are kept in FP32") as refused:
        stages_fp16.make(keeping(*half, "classifier"), tmp_path / "model.onnx", before_fp16(finished))
    assert refused.value.remedy.startswith("keep fewer nodes with --keep-fp32")
    assert not (tmp_path / "model.onnx").exists()


def test_the_remedy_does_not_mention_the_option_after_a_search(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stages_fp16, "_search", lambda conversion, *_: (frozenset(node.name for node in conversion.nodes), 1)
    )
    with pytest.raises(StageFailed, match=r"4 of 4 .*, the first the Conv node '.+', are kept in FP32") as refused:
        stages_fp16.make(keeping("auto"), tmp_path / "model.onnx", before_fp16(finished))
    assert refused.value.remedy == "deploy the FP32 graph of the rewrite stage"


def test_a_search_keeps_nothing_where_fp16_is_enough(finished: Path, tmp_path: Path) -> None:
    notes = stages_fp16.make(keeping("auto"), tmp_path / "model.onnx", before_fp16(finished))
    assert (tmp_path / "model.onnx").read_bytes() == (finished / "fp16" / "model.onnx").read_bytes()
    assert (notes["kept"], notes["keep_fp32"], notes["evaluations"]) == ({}, [], 1)
    assert "kept in FP32: nothing (0 of" in str(notes["remarks"])


def test_a_search_without_a_result_is_an_error(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages_fp16, "assess", lambda half, sample, tolerance: Evaluation(False, 1.0))
    with pytest.raises(StageFailed, match="no part of the graph can run in FP16") as refused:
        stages_fp16.make(keeping("auto"), tmp_path / "model.onnx", before_fp16(finished))
    assert refused.value.remedy == "deploy the FP32 graph of the rewrite stage"


def test_a_search_without_a_result_names_a_node(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_but_one(names: Sequence[str], evaluate: Callable[[Kept], Evaluation], *_: object) -> SearchResult:
        evaluate(frozenset(names[1:]))
        return SearchResult(None, 2)

    monkeypatch.setattr(stages_fp16, "assess", lambda half, sample, tolerance: Evaluation(False, 1.0))
    monkeypatch.setattr(stages_fp16, "smallest_set", all_but_one)
    with pytest.raises(
        StageFailed, match=r"of \d+ nodes only 1 are in FP16, such as the Conv node '/stem/stem.0/Conv', its"
    ):
        stages_fp16.make(keeping("auto"), tmp_path / "model.onnx", before_fp16(finished))


def test_a_search_reports_its_progress(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress: list[tuple[int, int]] = []
    monkeypatch.setattr(
        stages_fp16,
        "assess",
        lambda half, sample, tolerance: Evaluation(
            heavy_nodes.count(half, FP16)[0] < 4, 4.0 - heavy_nodes.count(half, FP16)[0]
        ),
    )
    job = dataclasses.replace(keeping("auto"), watch=lambda done, total: progress.append((done, total)))
    notes = stages_fp16.make(job, tmp_path / "model.onnx", before_fp16(finished))
    assert notes["heavy_nodes_kept"] == 1
    assert [done for done, _ in progress] == list(range(1, len(progress) + 1))
    assert all(done <= total for done, total in progress)


def test_keeping_nodes_in_fp32_does_not_import_torch(finished: Path, tmp_path: Path) -> None:
    program = f"""
import dataclasses, sys
from pathlib import Path
from deploytool.pipeline import runner
from deploytool.loading.stage_inputs import StageInputs
from deploytool.spec import Job, Model, Options
from deploytool.stages import fp16
stages = runner.stage_directories(Path({str(finished)!r}))
inputs = [runner.artifact_of(*stage, fresh=False) for stage in stages if stage[0].name not in ("fp16", "build")]
job = Job(Model("tiny", ""), Options(keep_fp32=("auto",)))
fp16.make(job, Path({str(tmp_path / "model.onnx")!r}), StageInputs(tuple(inputs)))
"""
    assert "torch" not in modules_of(program)
    assert (tmp_path / "model.onnx").is_file()
