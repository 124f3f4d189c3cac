"""Engines built on the device: kept, checked, and deleted if they are wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from deploytool import serde
from deploytool.backends import tensorrt
from deploytool.builder_settings import UNSET, BuilderSettings
from deploytool.bundle.manifest import Role, describe_file, read_manifest
from deploytool.device import build, probe, verify, worker
from deploytool.device.candidates import Candidate, Tier
from deploytool.device.environment import Environment
from deploytool.device.probe import Attempt, ProbeResult
from deploytool.device.verify import Integrity
from deploytool.device.worker import Request, Trial
from deploytool.errors import BadInput, MissingBackend, OutOfMemory, StageFailed
from deploytool.host import machine, owner
from deploytool.results.report import Check, Parity, Tolerance
from deploytool.spec import Precision
from tests.backends.fake_tensorrt import FULL, FakeTensorRT

RTX = machine.version("tensorrt-rtx") or ""
LAPTOP = Environment("linux", "x86_64", "RTX 4070", "8.9", "13.0", {"tensorrt_rtx": RTX})
TOLERANCE = Tolerance(max_error=2e-3, cosine=1 - 1e-4, snr_db=40.0, top1=1.0, top5=1.0)
TRIAL = Trial(Check("FP64", Parity(1e-4, 1.0, 80.0, 1.0, 1.0, 0), TOLERANCE, ()), 1.0, 1.1, 9, 1)


def works(candidate: Candidate) -> ProbeResult:
    """A probe that passes, in place of a GPU."""
    assert Path(candidate.path).is_file()
    return ProbeResult(candidate.tier, Path(candidate.path).name, Attempt.MEASURED, trial=TRIAL)


def crashes(candidate: Candidate) -> ProbeResult:
    return ProbeResult(candidate.tier, Path(candidate.path).name, Attempt.FAILED, "it was killed by SIGSEGV")


@pytest.fixture(scope="module")
def checked(packed: Path) -> Integrity:
    return verify.check_integrity(packed)


@pytest.fixture(scope="module")
def built(checked: Integrity, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real engine, built by TensorRT-RTX without a GPU; its trial is faked."""
    folder, steps = tmp_path_factory.mktemp("kept") / "tiny.built", []
    record = build.build(checked.folder, checked.manifest, LAPTOP, folder, works, lambda *step: steps.append(step))
    assert (record.flavour, record.version, record.capability) == ("tensorrt_rtx", RTX, "8.9")
    assert record.trial == TRIAL
    assert steps
    assert steps[-1][0] == steps[-1][1]
    return folder


def rebuild(checked: Integrity, built: Path, environment: Environment = LAPTOP) -> tuple[build.Record, bool]:
    """The record of a second build, and whether that built an engine."""
    steps: list[tuple[int, int]] = []
    record = build.build(checked.folder, checked.manifest, environment, built, works, lambda *step: steps.append(step))
    return record, bool(steps)


def test_a_built_engine_is_kept_and_is_a_candidate(checked: Integrity, built: Path) -> None:
    assert {path.suffix for path in built.iterdir()} == {".plan", ".json"}
    assert rebuild(checked, built)[1] is False
    candidate = verify.run_candidates(checked, LAPTOP, built)[1]
    assert (candidate.tier, candidate.absent, candidate.flavour) == (Tier.BUILT, None, "tensorrt_rtx")
    assert Path(candidate.path).read_bytes()[:4] == b"vtrt"


@pytest.mark.parametrize("change", [{"gpu": "RTX 4090"}, {"cuda": "13.1"}])
def test_an_engine_for_another_gpu_or_driver_is_not_used(
    checked: Integrity, built: Path, change: dict[str, str]
) -> None:
    changed = dataclasses.replace(LAPTOP, **change)  # type: ignore[arg-type]  # names of fields
    assert (
        verify.run_candidates(checked, changed, built)[1].absent
        == "none was built here yet: `deploytool build` builds one"
    )


def test_a_damaged_engine_is_built_again(checked: Integrity, built: Path) -> None:
    (plan,) = built.glob("*.plan")
    plan.write_bytes(plan.read_bytes()[:-1])
    assert verify.run_candidates(checked, LAPTOP, built)[1].absent
    assert rebuild(checked, built)[1] is True


def test_an_unchecked_engine_is_checked_and_not_built_again(checked: Integrity, built: Path) -> None:
    record, _ = rebuild(checked, built)
    build._write(built, dataclasses.replace(record, trial=None))
    assert verify.run_candidates(checked, LAPTOP, built)[1].absent  # an engine without a trial is not used
    assert rebuild(checked, built) == (record, False)


def test_an_engine_that_fails_its_check_is_deleted(checked: Integrity, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="deleted: it was killed by SIGSEGV"):
        build.build(checked.folder, checked.manifest, LAPTOP, tmp_path / "built", crashes, lambda *step: None)
    assert list((tmp_path / "built").iterdir()) == []


def test_leftovers_of_a_killed_build_are_swept_and_running_builds_are_kept(
    checked: Integrity, built: Path, dead: str
) -> None:
    busy = built / f".making-{owner.name()}-b"
    for folder in (built / f".making-{dead}-a", busy):
        folder.mkdir()
    rebuild(checked, built)
    assert {path.suffix for path in built.iterdir() if path != busy} == {".plan", ".json"}
    assert busy.is_dir()
    busy.rmdir()


def test_an_engine_in_a_folder_that_others_can_write_is_not_used(checked: Integrity, built: Path) -> None:
    rebuild(checked, built)
    built.chmod(0o777)
    try:
        assert "is not a folder that only you can write" in str(verify.run_candidates(checked, LAPTOP, built)[1].absent)
        with pytest.raises(BadInput):
            rebuild(checked, built)
    finally:
        built.chmod(0o700)


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        (Environment("linux", "x86_64"), "no CUDA GPU answers here"),
        (dataclasses.replace(LAPTOP, tensorrt={}), "no TensorRT is installed"),
        (dataclasses.replace(LAPTOP, gpu="Orin", capability="8.7"), "TensorRT-RTX does not support it"),
    ],
)
def test_the_reason_is_given_where_no_engine_can_be_built(
    checked: Integrity, tmp_path: Path, environment: Environment, why: str
) -> None:
    with pytest.raises(MissingBackend, match=why):
        build.build(checked.folder, checked.manifest, environment, tmp_path / "built", works, lambda *step: None)
    assert why in str(verify.run_candidates(checked, environment, tmp_path / "built")[1].absent)
    assert not (tmp_path / "built").exists()


def test_tensorrt_is_preferred_to_tensorrt_rtx() -> None:
    both = dataclasses.replace(LAPTOP, tensorrt={"tensorrt": "10.16.1.11", "tensorrt_rtx": RTX})
    assert build.select_flavour(both) == "tensorrt"


ORIN = Environment("linux", "aarch64", "Orin", "8.7", "12.6", {"tensorrt": "10.3.0"})


def answers(requests: list[Request], new: bytes) -> Any:
    """A child process that writes an engine and a timing cache, in place of TensorRT."""

    def run_worker(request: Request, **_: Any) -> worker.Answer:
        requests.append(request)
        Path(request.out).write_bytes(b"engine")
        Path(request.out).with_suffix(".timing").write_bytes(new)
        return worker.Answer()

    return run_worker


def test_the_timing_cache_is_kept_beside_the_engine_for_the_next_build(
    checked: Integrity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, built = list[Request](), tmp_path / "built"
    for new in (b"one", b"two"):
        monkeypatch.setattr(probe, "run_worker", answers(requests, new))
        build.build(checked.folder, checked.manifest, ORIN, built, works, lambda *step: None)
        assert (built / "tensorrt_10.3.0_8.7.timing").read_bytes() == new
        (built / "tensorrt_10.3.0_8.7.plan").unlink()
    assert {request.timing_cache for request in requests} == {str(built / "tensorrt_10.3.0_8.7.timing")}
    assert len(requests) == 2


def test_an_engine_of_other_settings_is_built_again(
    checked: Integrity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = list[Request]()
    monkeypatch.setattr(probe, "run_worker", answers(requests, b""))
    for settings in (UNSET, UNSET, BuilderSettings(level=5), BuilderSettings(level=5), UNSET, BuilderSettings(64)):
        folder = (checked.folder, checked.manifest, ORIN, tmp_path / "built")
        record = build.build(*folder, works, lambda *step: None, settings)
    assert [request.settings.level for request in requests] == [None, 5, None]
    assert record.settings == BuilderSettings(workspace_mib=64)


def test_a_build_out_of_memory_is_named_on_the_device(
    checked: Integrity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = FakeTensorRT(
        FULL[0],
        messages=(("WARNING", "Requested amount of GPU memory (9 bytes) could not be allocated."),),
        works=False,
    )
    monkeypatch.setattr(tensorrt, "library", lambda name: trt)
    file = next(file for file in checked.manifest.files if file.role is Role.GRAPH)
    identity = (Tier.BUILT, str(checked.folder / file.path), file.size, file.sha256)
    candidate = Candidate(*identity, "onnx", "cuda", "tensorrt", Precision.FP16, Precision.FP32)
    request = Request("build", str(checked.folder), checked.manifest, candidate, "", out=str(tmp_path / "model.plan"))
    with pytest.raises(OutOfMemory, match="tensorrt ran out of memory while it built the engine"):
        worker._build(request)
    assert probe._ERRORS["OutOfMemory"] is OutOfMemory


RECORD: dict[str, Any] = {
    "flavour": "tensorrt_rtx",
    "version": RTX,
    "gpu": LAPTOP.gpu,
    "capability": "8.9",
    "cuda": LAPTOP.cuda,
}


@pytest.fixture
def unrun_record(checked: Integrity, tmp_path: Path) -> build.Record:
    """A valid record with a file that is not an engine."""
    path = f"tensorrt_rtx_{RTX}_8.9.plan"
    (tmp_path / "built").mkdir(mode=0o700)
    (tmp_path / "built" / path).write_bytes(b"engine")
    file = describe_file(tmp_path / "built", path, Role.ENGINE)
    graph = next(each.sha256 for each in checked.manifest.files if each.role is Role.GRAPH)
    record = build.Record(
        checked.digest, graph, **RECORD, precision=Precision.FP16, io=Precision.FP32, file=file, trial=TRIAL
    )
    build._write(tmp_path / "built", record)
    assert build.built_candidates(checked.folder, checked.manifest, LAPTOP, tmp_path / "built")[0].absent is None
    return record


@pytest.mark.parametrize("name", ["digest", "graph", "gpu", "cuda", "path", "size", "sha256", "trial"])
def test_an_engine_with_another_record_is_not_used(
    checked: Integrity, unrun_record: build.Record, tmp_path: Path, name: str
) -> None:
    values = {"path": "../other.plan", "size": unrun_record.file.size + 1, "sha256": "0" * 64, "trial": None}
    value: Any = values.get(name, "0" * 64)
    file_entry = (
        dataclasses.replace(unrun_record.file, **{name: value})
        if name in ("path", "size", "sha256")
        else unrun_record.file
    )
    changed = dataclasses.replace(
        unrun_record, file=file_entry, **({} if file_entry is not unrun_record.file else {name: value})
    )
    engine = tmp_path / "built" / unrun_record.file.path
    engine.with_suffix(".json").write_text(serde.text(changed))
    absent = build.built_candidates(checked.folder, checked.manifest, LAPTOP, tmp_path / "built")[0].absent
    assert absent == "none was built here yet: `deploytool build` builds one"


def test_an_engine_in_a_linked_or_foreign_folder_is_not_used(
    checked: Integrity, unrun_record: build.Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "built")
    monkeypatch.setattr(owner, "grants", lambda *_: False)  # as where links have modes of their own
    why = build.built_candidates(checked.folder, checked.manifest, LAPTOP, tmp_path / "link")[0].absent
    assert "is not a folder that only you can write" in str(why)
    monkeypatch.setattr(owner, "is_trusted", lambda _: False)
    why = build.built_candidates(checked.folder, checked.manifest, LAPTOP, tmp_path / "built")[0].absent
    assert "is not a folder that only you can write" in str(why)
    with pytest.raises(BadInput, match="is not a folder that only you can write"):
        build.build(checked.folder, checked.manifest, LAPTOP, tmp_path / "built", works, lambda *step: None)


def test_nothing_is_built_in_a_folder_that_others_can_write(checked: Integrity, tmp_path: Path) -> None:
    (tmp_path / "built").mkdir()
    (tmp_path / "built").chmod(0o777)
    with pytest.raises(BadInput, match="is not a folder that only you can write"):
        build.build(checked.folder, checked.manifest, LAPTOP, tmp_path / "built", works, lambda *step: None)
    assert not list((tmp_path / "built").iterdir())


def test_a_graph_that_keeps_layers_in_fp32_is_built(packed: Path, finished: Path, tmp_path: Path) -> None:
    graph = finished / "rewrite" / "model.onnx"  # every layer is FP32, as `--keep-fp32` may have it
    identity = (Tier.ENGINE, str(graph), graph.stat().st_size, serde.file_digest(graph))
    candidate = Candidate(*identity, "tensorrt", "cuda", "tensorrt_rtx", Precision.FP16, Precision.FP32)
    engine = tmp_path / "engine.plan"
    request = Request(
        "build", str(packed), read_manifest(packed), candidate, "", out=str(engine), capabilities=("8.9",)
    )
    answer = worker._build(request)
    assert "HALF" not in dict(answer.layers)
    assert engine.stat().st_size > 10_000
