"""Tests of the pack stage: a bundle holds the files of the run, and does not depend on time, path or speed."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploytool import serde
from deploytool.backends import onnxruntime
from deploytool.builder_settings import BuilderSettings
from deploytool.bundle.manifest import (
    File,
    Manifest,
    Role,
    all_files,
    check_files,
    content_digest,
    engine_recipe,
    read_manifest,
    write_manifest,
)
from deploytool.cli import pack as packing
from deploytool.data import golden, images
from deploytool.device import candidates
from deploytool.device.environment import Environment
from deploytool.errors import BadInput, ParityFailed, Refused, ResourceExhausted, StageFailed
from deploytool.host import machine, owner
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import metrics
from deploytool.pipeline import runner
from deploytool.results import report
from deploytool.results.artifact import Kind
from deploytool.spec import Decision, Job, Range, Stage, TargetPlan
from deploytool.stages import pack
from tests.conftest import QUICK, TINY, artifacts

DEAD = owner.name().replace(f"-{os.getpid()}-", "-4194303-")  # beyond the largest process id


def pack_manifest(inputs: StageInputs, folder: Path) -> Manifest:
    """Packs into a new folder and returns the manifest."""
    folder.mkdir()
    pack.make(Job(TINY, QUICK), folder / "bundle" / "manifest.json", inputs)
    return read_manifest(folder / "bundle")


def with_notes(inputs: StageInputs, kind: Kind, **notes: object) -> StageInputs:
    """The same artifacts with other notes of one kind."""
    return StageInputs(
        tuple(
            dataclasses.replace(artifact, notes={**artifact.notes, **notes}) if artifact.kind is kind else artifact  # type: ignore[dict-item]  # plain values
            for artifact in inputs.artifacts
        )
    )


def test_the_bundle_holds_the_artifacts_of_the_run(finished: Path, packed: Path) -> None:
    manifest = read_manifest(packed)
    by_stage = {artifact.made_by: artifact for artifact in artifacts(finished).artifacts}
    by_path = {file.path: file for file in all_files(manifest)}
    single, half = manifest.graphs
    assert (by_path[single.path].sha256, single.precision) == (by_stage[Stage.SIMPLIFY].digest, "fp32")
    assert (by_path[half.path].sha256, half.precision) == (by_stage[Stage.FP16].digest, "fp16")
    assert manifest.engines[0].file.sha256 == by_stage[Stage.BUILD].digest
    assert manifest.provenance.weights == by_stage[Stage.LOAD].digest
    assert manifest.provenance.artifacts[Stage.EXPORT] == by_stage[Stage.EXPORT].digest
    assert manifest.provenance.choices == {"exporter": "torchscript", "opset": "18"}
    assert manifest.provenance.factory == "tiny.py:tiny"
    assert manifest.provenance.versions["torch"]
    assert [(tensor.name, tensor.shape) for tensor in manifest.inputs] == [("input", ("batch", 3, 32, 32))]
    assert [(tensor.name, tensor.shape) for tensor in manifest.outputs] == [("logits", ("batch", 10))]
    assert manifest.free == {"batch": QUICK.batch}
    tolerances = metrics.tolerances(golden.read(by_stage[Stage.GOLDEN].path).noise, {})
    assert manifest.tolerances == {"fp32": tolerances.fp32, "fp16": tolerances.fp16}


def test_each_graph_has_a_memory_limit(packed: Path) -> None:
    """It is small, because the model is: a forged graph in its place could not use 256 MiB."""
    for graph in read_manifest(packed).graphs:
        assert graph.memory_mib is not None
        assert 128 < graph.memory_mib < 200


def test_the_manifest_states_the_versions_of_the_graphs_and_the_runtime_that_ran_them(packed: Path) -> None:
    manifest = read_manifest(packed)
    for graph in manifest.graphs:
        written = onnx.load(packed / graph.path)
        assert (graph.ir_version, graph.opset) == (written.ir_version, written.opset_import[0].version)
    assert manifest.tried == machine.version("onnxruntime")
    assert manifest.floor == {}


def test_a_graph_that_the_oldest_runtime_does_not_read_is_not_packed(
    finished: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, graphs = artifacts(finished), read_manifest(packed).graphs
    (exported,) = (graph for graph in inputs.chain(Kind.GRAPH) if graph.made_by is Stage.EXPORT)
    monkeypatch.setitem(exported.notes, "floor", {"ort": "1.20"})
    assert pack._floor(inputs, graphs) == {"ort": "1.20"}
    with pytest.raises(StageFailed, match="reads opsets up to 21, and the graph has opset 22"):
        pack._floor(inputs, [dataclasses.replace(graph, opset=22) for graph in graphs])


def test_a_form_for_openvino_is_packed_and_used_there(
    finished: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rewrite stage left another form beside its graph: here the one before it."""
    inputs = artifacts(finished)
    (before,) = (graph.path for graph in inputs.chain(Kind.GRAPH) if graph.made_by is Stage.EXPORT)
    monkeypatch.setattr(pack, "openvino_graph", lambda graph: before)
    (tmp_path / "bundle").mkdir()
    single = next(graph for graph in inputs.chain(Kind.GRAPH) if graph.made_by is Stage.REWRITE)
    graphs, best = pack._write_openvino_graph(tmp_path / "bundle", single)
    assert best == {"openvino": "openvino/model.onnx"}
    assert (tmp_path / "bundle" / best["openvino"]).read_bytes() == before.read_bytes()
    manifest = read_manifest(packed)
    file = File(graphs[0].path, before.stat().st_size, "0" * 64, Role.GRAPH)
    more = dataclasses.replace(
        manifest, graphs=(*manifest.graphs, *graphs), best=best, files=tuple(sorted((*manifest.files, file), key=str))
    )
    write_manifest(tmp_path, more)
    reread = read_manifest(tmp_path)
    environment = Environment("linux", "x86_64", onnxruntime="1.31.1", openvino="2026.4.1")
    built = candidates.unavailable(candidates.Tier.BUILT, "none")
    paths = {each.tier: each.path for each in candidates.candidates(tmp_path, reread, environment, built)}
    assert paths[candidates.Tier.OPENVINO_CPU] == str(tmp_path / "openvino" / "model.onnx")
    assert paths[candidates.Tier.ORT_CPU] == str(tmp_path / manifest.graphs[0].path)
    for wrong in ({"openvino": manifest.graphs[1].path}, {"tvm": best["openvino"]}, {"openvino": "x.onnx"}):
        write_manifest(tmp_path, dataclasses.replace(more, best=wrong))
        with pytest.raises(Refused, match="the best graph of a runtime is invalid"):
            read_manifest(tmp_path)


def test_a_manifest_without_best_graphs_has_one_graph_for_both_runtimes(packed: Path) -> None:
    assert '"best"' not in (packed / "manifest.json").read_text()
    environment = Environment("linux", "x86_64", onnxruntime="1.31.1", openvino="2026.4.1")
    built = candidates.unavailable(candidates.Tier.BUILT, "none")
    found = candidates.candidates(packed, read_manifest(packed), environment, built)
    assert len({each.path for each in found if each.tier in candidates.CPU_TIERS}) == 1


def test_the_manifest_lists_the_systems_that_an_engine_supports(packed: Path) -> None:
    (engine,) = read_manifest(packed).engines
    assert (engine.flavour, engine.capabilities, engine.cuda) == ("tensorrt_rtx", ("8.9",), "13.0")
    assert engine.systems == ("linux", "windows")


def test_the_golden_images_give_the_golden_inputs(packed: Path) -> None:
    manifest = read_manifest(packed)
    sample = golden.read(packed / manifest.golden.path)
    assert len(manifest.golden.images) == manifest.golden.cases == 4
    for number, path in enumerate(manifest.golden.images):
        array = images.normalise(images.read(packed / path)[None], manifest.preprocessing)
        assert np.array_equal(array[0], sample.inputs["input"][number])


def test_a_bundle_contains_no_path_of_this_machine(finished: Path, packed: Path) -> None:
    for path in packed.rglob("*"):
        if path.is_file():
            assert str(finished.parent).encode() not in path.read_bytes(), path
            assert str(Path(__file__).parents[1]).encode() not in path.read_bytes(), path


def test_the_digest_depends_on_the_content_only(finished: Path, packed: Path, tmp_path: Path) -> None:
    """It does not depend on path, permissions, speed, or engines, because TensorRT does not build them reproducibly."""
    other = Path(shutil.copytree(finished, tmp_path / "elsewhere"))
    plan = other / "build" / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"!")
    written = report.read(other / "validate" / "report.json")
    slower = tuple(dataclasses.replace(speed, latency_ms=99.0) for speed in written.speeds)
    report.write(other / "validate" / "report.json", dataclasses.replace(written, speeds=slower))
    umask = os.umask(0o077)
    try:
        again = pack_manifest(artifacts(other), tmp_path / "again")
    finally:
        os.umask(umask)
    assert content_digest(again) == content_digest(read_manifest(packed))
    assert again.engines != read_manifest(packed).engines


def test_a_run_with_failed_checks_is_not_packed(finished: Path, tmp_path: Path) -> None:
    inputs = with_notes(artifacts(finished), Kind.REPORT, broken=["fp16 against simplify: max_error"])
    with pytest.raises(ParityFailed, match="a run with failed checks cannot be packed: fp16 against simplify"):
        pack_manifest(inputs, tmp_path / "broken")


def test_engines_of_the_full_tensorrt_are_a_model_of_the_triton_repository(finished: Path, tmp_path: Path) -> None:
    inputs = artifacts(finished)
    (engine,) = serde.decode(tuple[report.Engine, ...], inputs.latest(Kind.ENGINE).notes["engines"])
    full = dataclasses.replace(engine, flavour="tensorrt", version="10.16.1.11", capabilities=())
    inputs = with_notes(inputs, Kind.ENGINE, engines=serde.encode([full]))
    written = report.read(inputs.latest(Kind.REPORT).path)
    decision = Decision("this", TargetPlan.HERE, "TensorRT builds for NVIDIA H200", "9.0", "tensorrt")
    report.write(tmp_path / "report.json", dataclasses.replace(written, targets=(decision,)))
    manifest = pack_manifest(with_path(inputs, Kind.REPORT, tmp_path / "report.json"), tmp_path / "full")
    (entry,) = manifest.engines
    assert entry.file.path == "models/tiny_trt/1/tensorrt_10.16.1.11_9.0.plan"
    assert (entry.capabilities, entry.systems) == (("9.0",), ("linux",))
    config = (tmp_path / "full" / "bundle" / "models" / "tiny_trt" / "config.pbtxt").read_text()
    assert '{ key: "9.0" value: "tensorrt_10.16.1.11_9.0.plan" }' in config


def with_path(inputs: StageInputs, kind: Kind, path: Path) -> StageInputs:
    """The same artifacts with another file of one kind."""
    return StageInputs(
        tuple(
            dataclasses.replace(artifact, path=path) if artifact.kind is kind else artifact
            for artifact in inputs.artifacts
        )
    )


def test_each_model_of_the_triton_repository_runs(packed: Path) -> None:
    """Each has a folder with its configuration and its first version."""
    for folder in sorted((packed / "models").iterdir()):
        assert (folder / "config.pbtxt").read_text().startswith(f'name: "{folder.name}"\n')
        with onnxruntime.start(folder / "1" / "model.onnx") as session:
            assert session(input=np.zeros((2, 3, 32, 32), np.float32))["logits"].shape == (2, 10)


def test_a_run_is_packed_again_only_if_needed_and_not_if_its_files_changed(run_copy: Path) -> None:
    first = runner.extend(Stage.PACK, QUICK, run_copy)
    assert first.fresh
    leftover = run_copy.with_name(f".{run_copy.name}.making-{DEAD}")
    leftover.mkdir()  # of a process that was killed after it had published the bundle
    assert not runner.extend(Stage.PACK, QUICK, run_copy).fresh
    assert not leftover.exists()
    assert runner.extend(Stage.PACK, dataclasses.replace(QUICK, sequence=2), run_copy).fresh
    (run_copy / "pack" / "bundle" / "recipe.json").write_text("spoilt")
    assert runner.extend(Stage.PACK, QUICK, run_copy).digest == first.digest
    graph = run_copy / "fp16" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"!")
    with pytest.raises(BadInput, match="fp16 has changed since its stage made it"):
        runner.extend(Stage.PACK, QUICK, run_copy)
    shutil.rmtree(run_copy / "validate")
    with pytest.raises(BadInput, match="it lacks the report"):
        runner.extend(Stage.PACK, QUICK, run_copy)


def test_a_failed_copy_is_an_error_and_leaves_no_files(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail)
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


def fail(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_settings_of_the_builder_are_in_the_recipe(finished: Path, tmp_path: Path) -> None:
    sizes = {"H": Range(32, 48, 64), "W": Range(8, 8, 8)}
    several = (sizes, {**sizes, "H": Range(96, 96, 96)})
    settings = BuilderSettings(workspace_mib=64, memory_mib=512, level=5, profiles=several)
    inputs = artifacts(finished)
    serves = inputs.latest(Kind.REPORT).notes["serves"]
    assert isinstance(serves, dict)
    changed = with_notes(inputs, Kind.REPORT, serves={**serves, "builder": serde.encode(settings)})
    manifest = pack_manifest(changed, tmp_path / "out")
    recipe = engine_recipe(tmp_path / "out" / "bundle", manifest)
    assert recipe.settings == settings
    assert recipe.trtexec == (
        "trtexec --onnx=models/tiny_fp16/1/model.onnx "
        "--profile=0 --minShapes=input:1x3x32x32 --optShapes=input:8x3x32x32 --maxShapes=input:32x3x32x32 "
        "--profile=1 --minShapes=input:1x3x32x32 --optShapes=input:8x3x32x32 --maxShapes=input:32x3x32x32 "
        "--memPoolSize=workspace:64 --builderOptimizationLevel=5 --stronglyTyped --saveEngine=model.plan"
    )


def test_a_stripped_engine_is_no_model_of_triton_which_cannot_fill_weights_in(finished: Path, tmp_path: Path) -> None:
    inputs = artifacts(finished)
    (engine,) = serde.decode(tuple[report.Engine, ...], inputs.latest(Kind.ENGINE).notes["engines"])
    for stripped, folder in ((True, "engines"), (False, "models/tiny_trt/1")):
        made = dataclasses.replace(engine, flavour="tensorrt", version="10.3.0", stripped=stripped)
        changed = with_notes(inputs, Kind.ENGINE, engines=serde.encode((made,)))
        (packed_engine,) = pack_manifest(changed, tmp_path / str(stripped)).engines
        assert (packed_engine.stripped, Path(packed_engine.file.path).parent.as_posix()) == (stripped, folder)
