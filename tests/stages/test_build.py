"""Tests of the build stage with real engines, built by TensorRT-RTX without a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from deploytool import serde
from deploytool.errors import BadInput, StageFailed
from deploytool.loading.stage_inputs import StageInputs
from deploytool.results.artifact import Artifact, Kind
from deploytool.results.report import Engine
from deploytool.spec import EnginePlan, Job, Options, Range, Stage
from deploytool.stages import build, fp16
from tests.conftest import QUICK, TINY, artifacts

RTX = "tensorrt_rtx"


def with_graph(path: Path) -> StageInputs:
    return StageInputs((Artifact(Kind.GRAPH, path, "digest", "key", Stage.FP16, {}, 0.0, fresh=True),))


def options(*plans: EnginePlan, batch: Range = Range()) -> Options:  # noqa: B008  # frozen
    return dataclasses.replace(QUICK, engines=plans or (EnginePlan("model.plan", RTX),), batch=batch)


def test_an_engine_is_built_and_described(finished: Path) -> None:
    (artifact,) = artifacts(finished).chain(Kind.ENGINE)
    (engine,) = serde.decode(tuple[Engine, ...], artifact.notes["engines"])
    assert engine.file == "model.plan"
    assert engine.bytes == artifact.path.stat().st_size > 10_000
    assert (engine.flavour, engine.capabilities) == (RTX, ("8.9",))
    assert engine.layers["HALF"] > engine.layers["FLOAT"]


def test_the_notes_contain_the_log_of_tensorrt(finished: Path) -> None:
    (artifact,) = artifacts(finished).chain(Kind.ENGINE)
    log = artifact.notes["log"]
    assert isinstance(log, list)
    assert any("Opset version:    18" in str(line) for line in log)


def test_two_builds_write_identical_files(finished: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        build.make(Job(TINY, options()), tmp_path / name / "model.plan", artifacts(finished))
    assert (tmp_path / "a" / "model.plan").read_bytes() == (tmp_path / "b" / "model.plan").read_bytes()


def test_every_plan_is_written_to_its_own_file(finished: Path, tmp_path: Path) -> None:
    plans = (EnginePlan("model.plan", RTX, ("8.6", "8.9")), EnginePlan("engine_2.plan", RTX, ("7.5",)))
    notes = build.make(Job(TINY, options(*plans)), tmp_path / "model.plan", artifacts(finished))
    assert [engine.capabilities for engine in serde.decode(tuple[Engine, ...], notes["engines"])] == [
        ("8.6", "8.9"),
        ("7.5",),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"model.plan", "engine_2.plan"}


def test_the_build_reports_its_progress(finished: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    job = Job(TINY, options(), watch=lambda done, total: progress.append((done, total)))
    build.make(job, tmp_path / "model.plan", artifacts(finished))
    assert progress == sorted(progress)
    assert progress[-1][0] == progress[-1][1] > 1


def test_an_engine_of_an_fp32_graph_is_an_error(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="only 0 of 4 convolution and matrix layers are FP16 or BF16"):
        build.make(Job(TINY, options()), tmp_path / "model.plan", with_graph(finished / "simplify" / "model.onnx"))
    assert not (tmp_path / "model.plan").exists()


def test_a_graph_with_layers_kept_in_fp32_is_built(finished: Path, tmp_path: Path) -> None:
    before = StageInputs(
        tuple(artifact for artifact in artifacts(finished).artifacts if artifact.made_by not in ("fp16", "build"))
    )
    job = Job(TINY, dataclasses.replace(options(), keep_fp32=("grouped", "depthwise")))
    notes = fp16.make(job, tmp_path / "model.onnx", before)
    mixed = Artifact(Kind.GRAPH, tmp_path / "model.onnx", "digest", "key", Stage.FP16, notes, 0.0, fresh=True)
    (engine,) = serde.decode(
        tuple[Engine, ...], build.make(job, tmp_path / "model.plan", StageInputs((mixed,)))["engines"]
    )
    whole = serde.decode(tuple[Engine, ...], artifacts(finished).latest(Kind.ENGINE).notes["engines"])[0]
    assert engine.layers["FLOAT"] > whole.layers["FLOAT"]
    assert engine.layers["HALF"] < whole.layers["HALF"]
    assert (tmp_path / "model.plan").stat().st_size == engine.bytes
    with pytest.raises(StageFailed, match="only 2 of 4 convolution and matrix layers are FP16 or BF16"):
        build.make(job, tmp_path / "model.plan", with_graph(tmp_path / "model.onnx"))


def test_the_error_names_an_operator_that_tensorrt_does_not_support(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Det", ["input"], ["logits"], "the_odd_one")],
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT16, ["batch", 3, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["batch"])],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with pytest.raises(StageFailed, match="TensorRT rejects Det node 'the_odd_one'"):
        build.make(Job(TINY, options()), tmp_path / "model.plan", with_graph(path))


def test_an_invalid_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises((StageFailed, BadInput)):
        build.make(Job(TINY, options()), tmp_path / "model.plan", with_graph(tmp_path / "model.onnx"))


def test_an_engine_is_built_for_a_fixed_batch_size(finished: Path, tmp_path: Path) -> None:
    build.make(Job(TINY, options(batch=Range(4, 4, 4))), tmp_path / "model.plan", artifacts(finished))
    assert (tmp_path / "model.plan").stat().st_size > 10_000
