"""Tests of the build stage with real engines, built by TensorRT-RTX without a GPU."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from deploytool import serde
from deploytool.backends import tensorrt
from deploytool.builder_settings import BuilderSettings
from deploytool.errors import BadInput, StageFailed
from deploytool.known_issues.catalog import Match
from deploytool.known_issues.place import AffectedReleases, Place
from deploytool.loading.stage_inputs import StageInputs
from deploytool.results.artifact import Artifact, Kind
from deploytool.results.report import Engine
from deploytool.spec import EnginePlan, Job, Options, Range, Stage
from deploytool.stages import build, fp16
from tests import engines
from tests.backends.fake_tensorrt import FULL, FakeTensorRT
from tests.conftest import QUICK, TINY, artifacts

RTX = "tensorrt_rtx"


def test_an_engine_in_8_bits_has_no_probes_of_known_issues_and_says_so() -> None:
    releases = (AffectedReleases(RTX, "1.0", None, ("12.0",)),)
    match = Match("reduce_keys", "NVIDIA/TensorRT#4853", Place("keys", ("a", "b")), releases)
    for file, probed in (("model.plan", True), ("fp8_model.plan", False)):
        plan = EnginePlan(file, RTX, ("12.0",))
        affecting, (remark,) = build._affecting((match,), plan, "1.7", probed=probed)
        assert affecting == ((match,) if probed else ())
        assert remark.startswith(
            f"NVIDIA/TensorRT#4853 can affect {file}, which has {'1 probe' if probed else 'no probes'}"
        )


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


def with_tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """Lets the stage build with a full TensorRT, of which there is none here."""
    trt = FakeTensorRT(FULL[-1])
    trt.__dict__["__version__"] = "11.4.0.106"
    monkeypatch.setattr(tensorrt, "library", lambda name: trt)
    return trt


def test_the_timing_cache_is_kept_beside_the_engines_and_used_by_the_next_build(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt, plans = with_tensorrt(monkeypatch), (EnginePlan("model.plan", "tensorrt"), EnginePlan("two.plan", "tensorrt"))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = build.make(Job(TINY, options(*plans)), tmp_path / "first" / "model.plan", artifacts(finished))
    assert (tmp_path / "first" / "tensorrt.timing").read_bytes() == b"kept"
    assert trt.calls == [("cache", b""), ("cache", b"kept")]
    assert "two.plan was built with the timing cache of an earlier build" in str(first["remarks"])
    earlier = (str(tmp_path / "absent"), str(tmp_path / "first"))
    notes = build.make(
        Job(TINY, options(plans[0]), earlier=earlier), tmp_path / "second" / "model.plan", artifacts(finished)
    )
    assert trt.calls[2:] == [("cache", b"kept")]
    assert "model.plan was built with the timing cache of an earlier build" in str(notes["remarks"])


def test_the_settings_of_the_builder_reach_the_build(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = with_tensorrt(monkeypatch)
    stated = dataclasses.replace(options(EnginePlan("model.plan", "tensorrt")), builder=BuilderSettings(64, None, 5))
    build.make(Job(TINY, stated), tmp_path / "model.plan", artifacts(finished))
    assert ("pool", "WORKSPACE", 64 << 20) in trt.calls
    assert trt.config.builder_optimization_level == 5


def test_rtx_builds_with_limits_and_a_level(finished: Path, tmp_path: Path) -> None:
    """Recorded of TensorRT-RTX 1.7: it takes all of them, and every level gives the same engine."""
    for level in (0, 5):
        (tmp_path / str(level)).mkdir()
        stated = dataclasses.replace(options(), builder=BuilderSettings(64, 512, level))
        build.make(Job(TINY, stated), tmp_path / str(level) / "model.plan", artifacts(finished))
    assert engines.content(tmp_path / "0" / "model.plan") == engines.content(tmp_path / "5" / "model.plan")
    assert not list(tmp_path.rglob("*.timing"))


def test_an_engine_is_stripped_where_a_bundle_has_its_graph(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt, plan = with_tensorrt(monkeypatch), EnginePlan("model.plan", "tensorrt")
    job = Job(TINY, dataclasses.replace(options(plan), builder=BuilderSettings(stripped=True)))
    notes = build.make(job, tmp_path / "model.plan", artifacts(finished))
    assert [engine.stripped for engine in serde.decode(tuple[Engine, ...], notes["engines"])] == [True]
    assert ("flag", "STRIP_PLAN") in trt.calls
    graph = tmp_path / "model.onnx"
    shutil.copy(finished / "fp16" / "model.onnx", graph)
    shutil.copy(graph, tmp_path / "engine.onnx")
    notes = build.make(job, tmp_path / "model.plan", with_graph(graph))
    assert [engine.stripped for engine in serde.decode(tuple[Engine, ...], notes["engines"])] == [False]
    assert "model.plan has its weights: it is built from another form of the graph" in str(notes["remarks"])
