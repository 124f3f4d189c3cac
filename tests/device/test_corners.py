"""Every corner of every profile is proved on the device: in each runtime, in each precision, and on engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploytool import serde
from deploytool.backends import tensorrt
from deploytool.builder_settings import BuilderSettings
from deploytool.bundle.corners import Corner
from deploytool.bundle.manifest import (
    CORNERS_SCHEMA,
    NARROW_SCHEMA,
    SCHEMA,
    engine_recipe,
    parse_manifest,
    read_manifest,
    schema_of,
    write_manifest,
)
from deploytool.cli import params
from deploytool.data import corner_cases, images
from deploytool.device import commands, corners, messages, probe, verify, worker
from deploytool.device.candidates import Candidate, Tier
from deploytool.device.corners import CornerOutcome
from deploytool.device.environment import detect
from deploytool.device.probe import Attempt, ProbeResult
from deploytool.device.verify import Verification
from deploytool.errors import ParityFailed, Refused
from deploytool.host import machine, memory
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.spec import Job, Options, Precision, Range, Source, Stage
from tests.backends import fake_engine
from tests.backends.fake_engine import FakeEngine, Fault
from tests.backends.fake_tensorrt import FULL, RTX
from tests.backends.test_tensorrt import FakeCuda
from tests.conftest import ROOT, artifacts
from tests.device.corner_faults import bake_width, edit_graph, fade_beyond, wrong_in_large_batches, wrong_in_second
from tests.fuzz.artifacts import update_manifest
from tests.int8 import packed as int8_packed

pytestmark = pytest.mark.integration

SIZES = {"H": Range(32, 48, 96), "W": Range(32, 48, 64)}
PROFILES = ({"H": Range(32, 48, 64), "W": SIZES["W"]}, {"H": Range(96, 96, 96), "W": SIZES["W"]})
BATCH = Range(1, 4, 24)
PLACES = {(32, 32), (32, 64), (64, 32), (64, 64), (61, 61), (96, 32), (96, 64), (96, 61)}
NAMES = {f"batch {batch}, H {high}, W {wide}" for high, wide in PLACES for batch in (1, 24)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two profiles with graphs in FP32, FP16 and INT8; tests must not change it."""
    home = tmp_path_factory.mktemp("corners")
    model = catalog.find(f"{ROOT / 'tests' / 'user_models' / 'residual.py'}:make", params.tensors(["image=3xHxW"]))
    calibration = home / "calibration.npz"
    np.savez(calibration, image=images.normalise(images.dead_leaves(24, 48, 48, 1), model.preprocessing))
    options = Options(
        images=8,
        seconds=0.0,
        rewrite="original",
        batch=BATCH,
        sizes=SIZES,
        builder=BuilderSettings(profiles=PROFILES),
        calibration=Source(str(calibration), "1"),
    )
    list(runner.run(Job(model, options), int8_packed.RECIPE, home / "run"))
    return int8_packed.acceptable(artifacts(home / "run"), home / "packed")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes run without child processes, whose start takes seconds."""
    monkeypatch.setattr(probe, "run_worker", lambda request, **_: worker._try(request))


def on(tier: Tier, folder: Path, *, int8: bool = False) -> Candidate:
    """The candidate of a runtime on the CPU."""
    here = replace(detect(), features=("avx512_vnni",))
    found = verify.run_candidates(verify.check_integrity(folder), here)
    return next(each for each in found if each.tier is tier and each.is_int8 is int8)


def tried(folder: Path, candidate: Candidate, *, at_corners: bool = True) -> ProbeResult:
    return probe.probe(candidate, folder, read_manifest(folder), 0.0, at_corners=at_corners)


def outcomes(result: ProbeResult) -> dict[str, CornerOutcome]:
    assert result.trial is not None
    return {each.corner: each.outcome for each in result.trial.corners}


def test_the_bundle_has_every_corner_of_every_profile(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.schema == CORNERS_SCHEMA
    assert {corner.name for corner in manifest.corners} == NAMES
    assert {precision for corner in manifest.corners for precision in corner.limits} == {"fp32", "fp16"}
    files = {file.path: file.size for file in manifest.files}
    shown = {corner.cases: corner.sizes for corner in manifest.corners}
    assert len(shown) == len(PLACES)
    for path, sizes in shown.items():  # two cases of pixels, and ten answers of each in FP32
        assert files[path] == pytest.approx(2 * (3 * sizes["H"] * sizes["W"] + 40), abs=1000)


@pytest.mark.parametrize("int8", [False, True])
def test_every_corner_holds_in_onnx_runtime(bundle: Path, int8: bool) -> None:
    result = tried(bundle, on(Tier.ORT_CPU, bundle, int8=int8))
    assert result.passed, result.reason
    assert outcomes(result) == dict.fromkeys(NAMES, CornerOutcome.HELD)


@pytest.mark.parametrize("int8", [False, True])
def test_every_corner_holds_in_openvino(bundle: Path, int8: bool, both_runtimes: None) -> None:
    result = tried(bundle, on(Tier.OPENVINO_CPU, bundle, int8=int8))
    assert result.passed, result.reason
    assert outcomes(result) == dict.fromkeys(NAMES, CornerOutcome.HELD)


def test_a_wrong_answer_of_one_corner_is_named(copy: Path) -> None:
    manifest = read_manifest(copy)
    corner = next(each for each in manifest.corners if each.sizes == {"batch": 1, "H": 96, "W": 32})
    with (copy / corner.cases).open("rb") as opened:
        cases = corner_cases.parse(opened, copy / corner.cases)
    wrong = {name: array * np.float32(1.01) for name, array in cases.answers.items()}
    corner_cases.write(copy / corner.cases, replace(cases, answers=wrong))
    update_manifest(copy, manifest)
    result = tried(copy, on(Tier.ORT_CPU, copy))
    assert result.reason.startswith("at the corner batch 1, H 96, W 32: the largest error")
    assert {name for name, each in outcomes(result).items() if each is not CornerOutcome.HELD} == {
        "batch 1, H 96, W 32",
        "batch 24, H 96, W 32",
    }
    assert not result.passed
    assert result.is_bundles_fault


def test_the_noise_of_a_corner_allows_what_golden_noise_does_not(copy: Path) -> None:
    manifest = read_manifest(copy)
    wide = replace(manifest.tolerances["fp16"], parts=())
    corner = manifest.corners[0]
    with (copy / corner.cases).open("rb") as opened:
        cases = corner_cases.parse(opened, copy / corner.cases)
    moved = {name: array * np.float32(1 + wide.max_error / 8) for name, array in cases.answers.items()}
    corner_cases.write(copy / corner.cases, replace(cases, answers=moved))
    update_manifest(copy, manifest)
    assert outcomes(tried(copy, on(Tier.ORT_CPU, copy)))[corner.name] is CornerOutcome.WRONG
    looser = replace(corner, limits={**corner.limits, "fp32": wide})
    write_manifest(copy, replace(read_manifest(copy), corners=(looser, *manifest.corners[1:])))
    assert outcomes(tried(copy, on(Tier.ORT_CPU, copy)))[corner.name] is CornerOutcome.HELD


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (partial(fade_beyond, axis=2, kept=70), {name for name in NAMES if "H 96" in name}),
        (partial(fade_beyond, axis=3, kept=62), {name for name in NAMES if "W 64" in name}),
        (partial(fade_beyond, axis=0, kept=20), {name for name in NAMES if "batch 24" in name}),
    ],
)
@pytest.mark.parametrize("tier", [Tier.ORT_CPU, Tier.OPENVINO_CPU])
def test_a_graph_that_is_wrong_at_corners_alone_is_caught(
    copy: Path, tier: Tier, change: Callable[[onnx.ModelProto], None], where: set[str], both_runtimes: None
) -> None:
    edit_graph(copy, change)
    candidate = on(tier, copy)
    assert tried(copy, candidate, at_corners=False).passed, "the golden cases have typical sizes"
    result = tried(copy, candidate)
    assert {name for name, each in outcomes(result).items() if each is CornerOutcome.WRONG} == where
    assert result.reason.startswith("at the corner batch ")


def test_a_graph_that_does_not_run_at_corners_is_caught(copy: Path) -> None:
    edit_graph(copy, bake_width)
    candidate = on(Tier.ORT_CPU, copy)
    assert tried(copy, candidate, at_corners=False).passed
    result = tried(copy, candidate)
    assert outcomes(result)["batch 1, H 32, W 32"] is CornerOutcome.FAILED
    assert result.reason.startswith("at the corner batch 1, H 32, W 32: ONNX Runtime fails on image (1, 3, 32, 32): ")
    failure = probe.shortfall([result], None)
    assert isinstance(failure, ParityFailed)
    assert "ORT CPU: at the corner batch 1, H 32, W 32: " in str(failure)


def test_an_int8_graph_that_is_wrong_at_a_corner_is_caught(copy: Path) -> None:
    index = next(i for i, graph in enumerate(read_manifest(copy).graphs) if graph.precision is Precision.INT8)
    edit_graph(copy, partial(fade_beyond, axis=2, kept=70), index)
    candidate = on(Tier.ORT_CPU, copy, int8=True)
    assert tried(copy, candidate, at_corners=False).passed
    wrong = {name for name, each in outcomes(tried(copy, candidate)).items() if each is CornerOutcome.WRONG}
    assert wrong == {name for name in NAMES if "H 96" in name}


def test_int8_without_answers_at_a_corner_is_not_said_to_hold_there(copy: Path) -> None:
    manifest = read_manifest(copy)
    write_manifest(copy, replace(manifest, int8=tuple(replace(each, corners=()) for each in manifest.int8)))
    result = tried(copy, on(Tier.ORT_CPU, copy, int8=True))
    assert set(outcomes(result).values()) == {CornerOutcome.SKIPPED}
    assert result.passed
    assert result.trial is not None
    assert messages._corners_text(result.trial) == (
        ", 0 of 16 corners hold, 16 skipped (batch 1, H 32, W 32: the bundle has no answers in INT8 there)"
    )


def test_verify_names_the_corner_and_its_result_has_all(copy: Path) -> None:
    sound = commands.verify(copy, say=print)
    assert sound.failure is None
    assert any("ORT CPU INT8" in line and "16 corners hold; " in line for line in sound.lines)
    told = serde.decode(Verification, json.loads(serde.text(sound.document)))
    assert {each.corner for result in told.tried if result.trial for each in result.trial.corners} == NAMES
    for index in range(len(read_manifest(copy).graphs)):
        edit_graph(copy, partial(fade_beyond, axis=0, kept=20), index)
    output = commands.verify(copy, say=print)
    assert isinstance(output.failure, ParityFailed)
    assert "at the corner batch 24, H 32, W 32: the largest error" in str(output.failure)
    assert '"outcome": "wrong"' in serde.text(output.document)


def test_run_does_not_compare_corners(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were proved when the bundle was installed, and a start must not take as long again."""
    asked = list[bool]()

    def probed(*_: Any, at_corners: bool = False, **__: Any) -> ProbeResult:
        asked.append(at_corners)
        return ProbeResult(Tier.ORT_CPU, "model.onnx", Attempt.FAILED, "not here")

    monkeypatch.setattr(probe, "probe", probed)
    images.write(tmp_path / "one.png", images.dead_leaves(1, 48, 48, 0)[0])
    with pytest.raises(Exception, match="not here"):
        commands.run(copy, [tmp_path / "one.png"], top=1)
    assert commands.bench(copy, seconds=0.0, say=print).failure
    assert not any(asked[: len(asked) // 2])
    assert all(asked[len(asked) // 2 :])


@pytest.mark.parametrize("known", [True, False])
def test_on_a_cpu_a_large_batch_needs_memory_that_is_known_and_available(
    copy: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(copy)
    if not known:
        write_manifest(
            copy, replace(manifest, corners=tuple(replace(each, memory_mib=None) for each in manifest.corners))
        )
    candidate = on(Tier.ORT_CPU, copy)
    assert all(each.memory_mib for each in manifest.corners if each.batch == 24)
    assert not any(each.memory_mib for each in manifest.corners if each.batch == 1)
    monkeypatch.setattr(memory, "available_bytes", lambda: 100 << 20)
    result = tried(copy, candidate)
    assert result.passed
    skipped = {name for name, each in outcomes(result).items() if each is CornerOutcome.SKIPPED}
    assert skipped == {name for name in NAMES if "batch 24" in name}
    reason = next(
        corners.skip_reason(each, read_manifest(copy), candidate)
        for each in read_manifest(copy).corners
        if each.batch > 8
    )
    assert ("105 MB are available" if known else "or an unknown amount") in str(reason)
    on_gpu = replace(candidate, device="cuda")
    assert not any(corners.skip_reason(each, read_manifest(copy), on_gpu) for each in manifest.corners)
    assert corners.memory_mib(read_manifest(copy), candidate) == 0


def test_a_bundle_without_corners_verifies_as_before(copy: Path) -> None:
    manifest = read_manifest(copy)
    int8 = tuple(replace(each, corners=()) for each in manifest.int8)
    write_manifest(copy, replace(manifest, schema=NARROW_SCHEMA, corners=(), int8=int8))
    text = (copy / "manifest.json").read_text()
    assert '"corners"' not in text
    result = tried(copy, on(Tier.ORT_CPU, copy))
    assert outcomes(result) == {}
    assert '"corners"' not in serde.text(result)
    assert messages._result_text(result).startswith("works: error ")
    assert "corner" not in messages._result_text(result)


def test_an_older_version_names_the_schema_of_a_bundle_with_corners(copy: Path) -> None:
    manifest = read_manifest(copy)
    half = [graph for graph in manifest.graphs if graph.precision is Precision.FP16]
    assert schema_of(half, [], ()) == SCHEMA
    assert schema_of(manifest.graphs, [], ()) == NARROW_SCHEMA
    assert schema_of(half, [], manifest.corners) == CORNERS_SCHEMA
    for schema in (SCHEMA, NARROW_SCHEMA):
        with pytest.raises(Refused, match="its schema is that of other bundles"):
            parse_manifest(serde.text(replace(manifest, schema=schema)).encode(), copy)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sizes": {"batch": 1, "H": 32}}, "does not give every dynamic dimension"),
        ({"sizes": {"batch": 1, "H": 32, "W": 65}}, "has a size out of range"),
        ({"sizes": {"batch": 0, "H": 32, "W": 64}}, "has a size out of range"),
        ({"cases": "golden/none.npz"}, "has no cases"),
        ({"memory_mib": 0}, "the memory of a corner is out of range"),
        ({"memory_mib": 8193}, "the memory of a corner is out of range"),
    ],
)
def test_an_invalid_corner_is_refused(bundle: Path, change: dict[str, Any], problem: str) -> None:
    manifest = read_manifest(bundle)
    first, *others = manifest.corners
    with pytest.raises(Refused, match=problem):
        parse_manifest(serde.text(replace(manifest, corners=(replace(first, **change), *others))).encode(), bundle)


def test_damaged_cases_of_a_corner_are_an_error(copy: Path) -> None:
    manifest = read_manifest(copy)
    (copy / manifest.corners[0].cases).write_bytes(b"PK no zip")
    update_manifest(copy, manifest)
    with pytest.raises(Exception, match=r"corner_0\.npz holds no cases"):
        worker._try(worker.Request("try", str(copy), read_manifest(copy), on(Tier.ORT_CPU, copy), "", corners=True))


def run_engine(
    folder: Path, release: str, monkeypatch: pytest.MonkeyPatch, fault: Fault = fake_engine.sound
) -> tuple[ProbeResult, FakeEngine]:
    """The bundle on an engine of a release that was built by its recipe."""
    manifest = read_manifest(folder)
    recipe = engine_recipe(folder, manifest)
    graph = folder / manifest.graphs[0].path
    shapes = fake_engine.profile_shapes(recipe.inputs[0].shape, recipe.free, recipe.settings.profiles)
    engine = FakeEngine(release, graph.read_bytes(), shapes, fault)
    monkeypatch.setattr(tensorrt, "library", fake_engine.libraries(engine, FakeCuda(engine)))  # type: ignore[arg-type]
    monkeypatch.setattr(machine, "gpus", lambda: (fake_engine.GPU,))
    built = replace(on(Tier.ORT_CPU, folder), tier=Tier.BUILT, backend="tensorrt", device="cuda", flavour="tensorrt")
    return tried(folder, replace(built, precision=Precision.FP16)), engine


@pytest.mark.parametrize("release", [*FULL, RTX])
def test_an_engine_of_each_release_is_compared_at_every_corner_of_its_profiles(
    copy: Path, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, engine = run_engine(copy, release, monkeypatch)
    assert result.passed, result.reason
    assert outcomes(result) == dict.fromkeys(NAMES, CornerOutcome.HELD)
    corner_shapes = {(0 if high < 96 else 1, (b, 3, high, wide)) for high, wide in PLACES for b in (1, 24)}
    assert corner_shapes <= engine.ran


@pytest.mark.parametrize("release", [*FULL, RTX])
@pytest.mark.parametrize(("fault", "word"), [(wrong_in_second, "H 96"), (wrong_in_large_batches, "batch 24")])
def test_an_engine_that_is_wrong_in_one_profile_or_batch_is_caught(
    copy: Path, release: str, fault: Fault, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = run_engine(copy, release, monkeypatch, fault)
    assert not result.passed
    assert {name for name, each in outcomes(result).items() if each is CornerOutcome.WRONG} == {
        name for name in NAMES if word in name
    }
    assert result.reason.startswith("at the corner batch ")


def test_the_ends_of_the_batch_are_corners_of_a_model_of_one_size(packed: Path) -> None:
    manifest = read_manifest(packed)
    assert manifest.corners == (
        Corner({"batch": 1}),
        Corner({"batch": 32}, memory_mib=manifest.corners[1].memory_mib),
    )
    result = tried(packed, on(Tier.ORT_CPU, packed))
    assert outcomes(result) == {"batch 1": CornerOutcome.HELD, "batch 32": CornerOutcome.HELD}


def test_a_model_of_one_size_that_is_wrong_in_a_large_batch_is_caught(packed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "bundle"))
    edit_graph(folder, partial(fade_beyond, axis=0, kept=30))
    result = tried(folder, on(Tier.ORT_CPU, folder))
    assert outcomes(result) == {"batch 1": CornerOutcome.HELD, "batch 32": CornerOutcome.WRONG}


def test_a_run_that_recorded_no_corners_is_packed_without_them(tmp_path: Path, bundle: Path) -> None:
    """Such as one of an earlier version."""
    home = bundle.parents[1]
    inputs = artifacts(home / "run")
    changed = tuple(
        replace(each, notes={name: note for name, note in each.notes.items() if name != "corners"})
        if each.made_by is Stage.VALIDATE
        else each
        for each in inputs.artifacts
    )
    manifest = read_manifest(int8_packed.acceptable(type(inputs)(changed), tmp_path / "packed"))
    assert (manifest.corners, manifest.schema) == ((), NARROW_SCHEMA)
