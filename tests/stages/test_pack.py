"""A bundle is what the run made, and nothing of when, where and how fast it did."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from deploytool import serde
from deploytool.backends import onnxruntime
from deploytool.bundle.manifest import Manifest, all_files, check_files, content_digest, read_manifest
from deploytool.cli import pack as packing
from deploytool.data import golden, images
from deploytool.errors import BadInput, ParityFailed, Refused, ResourceExhausted
from deploytool.host import owner
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import metrics
from deploytool.pipeline import runner
from deploytool.results import report
from deploytool.results.artifact import Artifact, Kind
from deploytool.spec import Decision, Job, Stage, TargetPlan
from deploytool.stages import pack
from tests.conftest import QUICK, TINY, artifacts

DEAD = owner.name().replace(f"-{os.getpid()}-", "-4194303-")  # beyond what this machine gives


def packed_from(given: StageInputs, place: Path) -> Manifest:
    place.mkdir()
    pack.make(Job(TINY, QUICK), place / "bundle" / "manifest.json", given)
    return read_manifest(place / "bundle")


def changed(given: StageInputs, kind: Kind, **change: object) -> StageInputs:
    """The same artifacts but for the notes of one kind."""
    return StageInputs(
        tuple(
            dataclasses.replace(each, notes={**each.notes, **change}) if each.kind is kind else each  # type: ignore[dict-item]  # plain values
            for each in given.artifacts
        )
    )


def test_what_is_packed_is_what_was_made(finished: Path, packed: Path) -> None:
    manifest = read_manifest(packed)
    made = {artifact.made_by: artifact for artifact in artifacts(finished).artifacts}
    by_path = {file.path: file for file in all_files(manifest)}
    single, half = manifest.graphs
    assert (by_path[single.path].sha256, single.precision) == (made[Stage.SIMPLIFY].digest, "fp32")
    assert (by_path[half.path].sha256, half.precision) == (made[Stage.FP16].digest, "fp16")
    assert manifest.engines[0].file.sha256 == made[Stage.BUILD].digest
    assert manifest.provenance.weights == made[Stage.LOAD].digest
    assert manifest.provenance.artifacts[Stage.EXPORT] == made[Stage.EXPORT].digest
    assert manifest.provenance.choices == {"exporter": "torchscript", "opset": "18"}
    assert manifest.provenance.factory == "tiny.py:tiny"
    assert manifest.provenance.versions["torch"]
    assert [(each.name, each.shape) for each in manifest.inputs] == [("input", ("batch", 3, 32, 32))]
    assert [(each.name, each.shape) for each in manifest.outputs] == [("logits", ("batch", 10))]
    assert manifest.free == {"batch": QUICK.batch}
    allowed = metrics.tolerances(golden.read(made[Stage.GOLDEN].path).noise, {})
    assert manifest.tolerances == {"fp32": allowed.fp32, "fp16": allowed.fp16}


def test_each_graph_says_what_memory_it_may_take(packed: Path) -> None:
    """Little, as the model is small: a forged graph in its place may not take 256 MiB."""
    for graph in read_manifest(packed).graphs:
        assert graph.memory_mib is not None
        assert 128 < graph.memory_mib < 200


def test_the_engine_says_which_machines_it_is_for(packed: Path) -> None:
    (engine,) = read_manifest(packed).engines
    assert (engine.flavour, engine.capabilities, engine.cuda) == ("tensorrt_rtx", ("8.9",), "13.0")
    assert engine.systems == ("linux", "windows")


def test_the_golden_pictures_become_the_golden_tensors(packed: Path) -> None:
    manifest = read_manifest(packed)
    sample = golden.read(packed / manifest.golden.path)
    assert len(manifest.golden.images) == manifest.golden.cases == 4
    for number, path in enumerate(manifest.golden.images):
        made = images.normalise(images.read(packed / path)[None], manifest.preprocessing)
        assert np.array_equal(made[0], sample.inputs["input"][number])


def test_no_path_of_this_machine_travels(finished: Path, packed: Path) -> None:
    for path in packed.rglob("*"):
        if path.is_file():
            assert str(finished.parent).encode() not in path.read_bytes(), path
            assert str(Path(__file__).parents[1]).encode() not in path.read_bytes(), path


def test_the_same_inputs_give_the_same_digest(finished: Path, packed: Path, tmp_path: Path) -> None:
    """Another place, other rights, another speed, another engine: TensorRT builds none twice alike."""
    other = Path(shutil.copytree(finished, tmp_path / "elsewhere"))
    plan = other / "build" / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"!")
    written = report.read(other / "validate" / "report.json")
    slower = tuple(dataclasses.replace(speed, latency_ms=99.0) for speed in written.speeds)
    report.write(other / "validate" / "report.json", dataclasses.replace(written, speeds=slower))
    before = os.umask(0o077)
    try:
        again = packed_from(artifacts(other), tmp_path / "again")
    finally:
        os.umask(before)
    assert content_digest(again) == content_digest(read_manifest(packed))
    assert again.engines != read_manifest(packed).engines


def test_what_failed_is_not_packed(finished: Path, tmp_path: Path) -> None:
    given = changed(artifacts(finished), Kind.REPORT, broken=["fp16 against simplify: max_error"])
    with pytest.raises(ParityFailed, match="what fails is not packed: fp16 against simplify"):
        packed_from(given, tmp_path / "broken")


def test_engines_of_the_full_tensorrt_lie_where_triton_finds_them(finished: Path, tmp_path: Path) -> None:
    given = artifacts(finished)
    (engine,) = serde.decode(tuple[report.Engine, ...], given.latest(Kind.ENGINE).notes["engines"])
    full = dataclasses.replace(engine, flavour="tensorrt", version="10.16.1.11", capabilities=())
    given = changed(given, Kind.ENGINE, engines=serde.encode([full]))
    written = report.read(given.latest(Kind.REPORT).path)
    decision = Decision("this", TargetPlan.HERE, "TensorRT builds for NVIDIA H200", "9.0", "tensorrt")
    report.write(tmp_path / "report.json", dataclasses.replace(written, targets=(decision,)))
    manifest = packed_from(moved(given, Kind.REPORT, tmp_path / "report.json"), tmp_path / "full")
    (found,) = manifest.engines
    assert found.file.path == "models/tiny_trt/1/tensorrt_10.16.1.11_9.0.plan"
    assert (found.capabilities, found.systems) == (("9.0",), ("linux",))
    config = (tmp_path / "full" / "bundle" / "models" / "tiny_trt" / "config.pbtxt").read_text()
    assert '{ key: "9.0" value: "tensorrt_10.16.1.11_9.0.plan" }' in config


def moved(given: StageInputs, kind: Kind, path: Path) -> StageInputs:
    def one(each: Artifact) -> Artifact:
        return dataclasses.replace(each, path=path) if each.kind is kind else each

    return StageInputs(tuple(map(one, given.artifacts)))


def test_each_model_of_the_repository_starts(packed: Path) -> None:
    """The layout of a Triton repository: a folder a model, with its configuration and its first version."""
    for place in sorted((packed / "models").iterdir()):
        assert (place / "config.pbtxt").read_text().startswith(f'name: "{place.name}"\n')
        with onnxruntime.start(place / "1" / "model.onnx") as session:
            assert session(input=np.zeros((2, 3, 32, 32), np.float32))["logits"].shape == (2, 10)


def test_a_run_is_packed_once_and_only_if_it_is_as_it_was_made(run_copy: Path) -> None:
    first = runner.extend(Stage.PACK, QUICK, run_copy)
    assert first.fresh
    left = run_copy.with_name(f".{run_copy.name}.making-{DEAD}")
    left.mkdir()  # by a pack that was killed once its bundle was in its place
    assert not runner.extend(Stage.PACK, QUICK, run_copy).fresh
    assert not left.exists()
    assert runner.extend(Stage.PACK, dataclasses.replace(QUICK, sequence=2), run_copy).fresh
    (run_copy / "pack" / "bundle" / "recipe.json").write_text("spoilt")
    assert runner.extend(Stage.PACK, QUICK, run_copy).digest == first.digest
    graph = run_copy / "fp16" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"!")
    with pytest.raises(BadInput, match="fp16 is not as its stage made it"):
        runner.extend(Stage.PACK, QUICK, run_copy)
    shutil.rmtree(run_copy / "validate")
    with pytest.raises(BadInput, match="it lacks the report"):
        runner.extend(Stage.PACK, QUICK, run_copy)


def test_a_copy_that_fails_is_one_line_and_leaves_nothing(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(ResourceExhausted, match="No space left"):
        packing._copy(packed, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    packing._copy(packed, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    check_files(tmp_path / "out", read_manifest(tmp_path / "out"))
    (tmp_path / "out" / "recipe.json").write_text("spoilt")
    with pytest.raises(Refused):
        packing._copy(tmp_path / "out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def failing(opened: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
