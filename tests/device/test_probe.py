"""Whatever fails in a candidate, the next candidate is used, and the reason is reported."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from PIL import Image

from deploytool import serde
from deploytool.bundle.manifest import Manifest, read_manifest
from deploytool.device import answers, candidates, findings, messages, probe, verify, worker
from deploytool.device.candidates import TIERS, Candidate, Tier
from deploytool.device.environment import Environment
from deploytool.device.probe import WORKER, Attempt, Limits, ProbeResult
from deploytool.device.verify import Verification
from deploytool.device.worker import Request
from deploytool.errors import BadInput, NotVerified, ParityFailed, StageFailed
from deploytool.spec import Precision
from tests.conftest import ROOT
from tests.device.ort_cpu import on_ort_cpu, ort_cpu
from tests.fuzz.artifacts import update_manifest

REASONS = {
    "segfault": r"was killed by SIGSEGV",
    "hang": r"was stopped after",
    "out of memory": r"ended with status 1: MemoryError",
    "missing provider": r"ONNX Runtime cannot run on CUDA: it fell back to CPUExecutionProvider",
    "wrong output": r"golden mismatch: the largest error .*\d\.\de[-+]\d\d, the limit is \d\.\de[-+]\d\d",
    "wrong GPU": r"TensorRT cannot load the engine on this GPU",
}


@pytest.fixture(scope="module")
def manifest(packed: Path) -> Manifest:
    return read_manifest(packed)


def fake_candidate(packed: Path, manifest: Manifest, tier: candidates.Tier) -> Candidate:
    """A candidate of any tier for the FP16 graph, which the fake backend does not read."""
    file = next(file for file in manifest.files if file.path == manifest.graphs[1].path)
    device = "cpu" if tier in candidates.CPU_TIERS else "cuda"
    return Candidate(
        tier, str(packed / file.path), file.size, file.sha256, "fake", device, "", Precision.FP16, Precision.FP32
    )


def probe_with_fault(
    packed: Path, manifest: Manifest, candidate: Candidate, fault: str, monkeypatch: pytest.MonkeyPatch
) -> ProbeResult:
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("SAMPLE", str(packed / manifest.golden.path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    limits = Limits(seconds=1.0 if fault == "hang" else 60.0, gibibytes=8.0)
    worker = (sys.executable, str(Path(__file__).with_name("faulty.py")))
    return probe.probe(candidate, packed, manifest, 0.0, worker, limits)


@pytest.mark.parametrize("fault", REASONS)
@pytest.mark.parametrize("tier", TIERS)
def test_a_fault_falls_back_to_the_next_tier_with_a_reason(
    packed: Path, manifest: Manifest, tier: candidates.Tier, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = TIERS.index(tier)

    def prober(candidate: Candidate) -> ProbeResult:
        if candidate.tier == tier:
            return probe_with_fault(packed, manifest, candidate, fault, monkeypatch)
        if TIERS.index(candidate.tier) > index:
            return ProbeResult(candidate.tier, "", Attempt.MEASURED)
        return ProbeResult(candidate.tier, "", Attempt.UNAVAILABLE, "not here")

    results = probe.probe_in_order([fake_candidate(packed, manifest, tier_) for tier_ in TIERS], prober).results
    assert re.search(REASONS[fault], results[index].reason)
    assert {result.status for result in results[:index]} <= {Attempt.UNAVAILABLE}
    working = probe.first_passed(results)
    if tier == TIERS[-1]:
        failure = probe.shortfall(results, None)
        assert working is None
        assert isinstance(failure, ParityFailed if fault == "wrong output" else NotVerified)
        assert f"{tier}: {results[index].reason}" in str(failure)
    else:
        assert len(results) == index + 2  # candidates below the working one are not tried
        assert working is not None
        assert working.tier == TIERS[index + 1]
        assert probe.shortfall(results, None) is None


def test_a_working_candidate_is_measured(packed: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    result = probe_with_fault(
        packed, manifest, fake_candidate(packed, manifest, candidates.Tier.ENGINE), "none", monkeypatch
    )
    assert result.passed
    assert result.trial is not None
    assert result.trial.check.parity.max_error < 1e-5
    assert result.trial.rounds >= 7


@pytest.mark.parametrize(
    ("require", "working_tier", "accepted"),
    [
        ("trt", candidates.Tier.ENGINE, True),
        ("trt", candidates.Tier.ORT_TENSORRT, True),
        ("trt", candidates.Tier.ORT_CUDA, False),
        ("cuda", candidates.Tier.ORT_CUDA, True),
        ("cuda", candidates.Tier.ORT_CPU, False),
        ("cuda", candidates.Tier.OPENVINO_CPU, False),
        ("cpu", candidates.Tier.ORT_CPU, True),
        ("cpu", candidates.Tier.OPENVINO_CPU, True),
        (None, candidates.Tier.ORT_CPU, True),
    ],
)
def test_a_required_backend_is_the_minimum(require: str | None, working_tier: candidates.Tier, accepted: bool) -> None:
    above = TIERS[: TIERS.index(working_tier)]
    results = [ProbeResult(tier, "", Attempt.FAILED, "it crashed") for tier in above] + [
        ProbeResult(working_tier, "", Attempt.MEASURED)
    ]
    failure = probe.shortfall(results, require)
    assert (failure is None) == accepted
    if failure:
        assert isinstance(failure, NotVerified)
        assert all(f"{tier}: it crashed" in str(failure) for tier in above)


def test_without_openvino_onnx_runtime_on_the_cpu_is_the_last_that_can_be_tried(
    packed: Path, manifest: Manifest
) -> None:
    all_candidates = verify.run_candidates(verify.check_integrity(packed), Environment("linux", "x86_64"))
    assert [candidate.tier for candidate in all_candidates] == list(TIERS)
    assert [candidate.absent is None for candidate in all_candidates] == [False, False, False, False, True, False]
    result = probe.probe(on_ort_cpu(all_candidates), packed, manifest, 0.1)
    assert result.passed
    assert result.trial is not None
    assert result.trial.check.tolerance.max_error == manifest.tolerances[Precision.FP32].max_error


@pytest.mark.parametrize("tier", [candidates.Tier.ORT_CUDA, candidates.Tier.ORT_TENSORRT])
def test_a_missing_provider_does_not_fall_back_to_the_cpu(
    packed: Path, manifest: Manifest, tier: candidates.Tier
) -> None:
    """As on a machine with a GPU whose ONNX Runtime is the one for CPUs."""
    environment = Environment("linux", "x86_64", "L4", "8.9", "13.0", {})
    candidate = next(
        candidate
        for candidate in verify.run_candidates(verify.check_integrity(packed), environment)
        if candidate.tier == tier
    )
    assert candidate.absent is None
    status = probe.probe(candidate, packed, manifest, 0.1).reason
    assert re.search("ONNX Runtime cannot (run on CUDA|use TensorRT): this build does not contain", status)


def test_a_file_changed_after_the_check_is_not_opened(packed: Path, manifest: Manifest) -> None:
    candidate = ort_cpu(packed)
    forged = replace(candidate, sha256="0" * 64)
    assert "has other bytes than the manifest says" in probe.probe(forged, packed, manifest, 0.1).reason


def test_the_worker_imports_nothing_from_the_working_folder(
    packed: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    all_candidates = verify.run_candidates(verify.check_integrity(packed), Environment("linux", "x86_64"))
    assert WORKER[0] == sys.executable
    assert probe.probe(on_ort_cpu(all_candidates), packed, manifest, 0.1).passed


def test_an_answer_that_is_too_long_is_none(packed: Path, manifest: Manifest) -> None:
    """Where the child may write more, as an engine."""
    answer = f"open(json.load(open(sys.argv[1]))['answer'], 'w').write({serde.text(worker.Answer())!r} + ' ' * %d)"
    request = Request("try", str(packed), manifest, fake_candidate(packed, manifest, candidates.Tier.ORT_CPU), "")
    for length in (0, probe._MAX_ANSWER_BYTES):
        child = (sys.executable, "-c", f"import json, sys; {answer % length}")
        if not length:
            assert probe.run_worker(request, worker=child) == worker.Answer()
            continue
        with pytest.raises(StageFailed, match="gave no answer"):
            probe.run_worker(request, worker=child, limits=Limits(max_file_bytes=1 << 30))


def test_a_golden_image_that_becomes_another_tensor_here_is_refused(packed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "bundle"))
    image = folder / read_manifest(folder).golden.images[0]
    with Image.open(image) as opened:
        changed = opened.transpose(Image.Transpose.ROTATE_180)
    changed.save(image)
    update_manifest(folder)
    candidate = ort_cpu(folder)
    result = probe.probe(candidate, folder, read_manifest(folder), 0.0)
    assert (result.status, result.is_bundles_fault) == (Attempt.FAILED, False)
    assert "gives another tensor here" in result.reason


def test_preprocessing_that_differs_from_the_host_is_refused(packed: Path, manifest: Manifest) -> None:
    candidate = ort_cpu(packed)
    request = Request("try", str(packed), manifest, candidate, "")
    sample = answers.read_golden(packed, manifest)
    worker._check_preprocessing(request, sample)
    for changed in ({"mean": (0.5, 0.5, 0.5)}, {"channels": "BGR"}, {"layout": "NHWC"}):
        preprocessing = replace(manifest.preprocessing, **changed)
        inputs = (replace(manifest.inputs[0], shape=("batch", 32, 32, 3)),) if "layout" in changed else manifest.inputs
        changed_request = replace(request, manifest=replace(manifest, preprocessing=preprocessing, inputs=inputs))
        with pytest.raises(StageFailed, match="gives another tensor here"):
            worker._check_preprocessing(changed_request, sample)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_refused(number: float) -> None:
    assert findings.guess("a.png", "logits", np.array([1.0, 2.0]), 5, ()).classes == (1, 0)
    with pytest.raises(BadInput, match=r"a\.png: logits is not finite"):
        findings.guess("a.png", "logits", np.array([1.0, number]), 5, ())


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        (Precision.FP8, "engine FP8"),
        (Precision.BF16, "engine BF16"),
        (Precision.INT8, "engine INT8"),
        (Precision.FP16, "engine"),
        (None, "engine"),
    ],
)
def test_a_result_is_named_by_its_precision_unless_it_is_the_usual_one(precision: Precision | None, name: str) -> None:
    result = ProbeResult(
        Tier.ENGINE, "model.plan", Attempt.FAILED, int8=precision is Precision.INT8, precision=precision
    )
    assert result.name == name
    if precision is not None:
        candidate = replace(candidates.unavailable(Tier.ENGINE, "not built"), precision=precision)
        assert candidate.name == name
        found = probe.probe(candidate, Path(), cast(Manifest, None), 0.0)
        assert (found.name, found.precision) == (name, precision)


def test_an_earlier_result_in_int8_keeps_its_name() -> None:
    assert ProbeResult(Tier.ORT_CPU, "int8.onnx", Attempt.MEASURED, int8=True).name == "ORT CPU INT8"


def tried_engine(precision: Precision, *, passed: bool) -> ProbeResult:
    status, reason = (Attempt.MEASURED, "") if passed else (Attempt.FAILED, "golden mismatch")
    return ProbeResult(Tier.ENGINE, f"{precision}.plan", status, reason, precision=precision)


@pytest.mark.parametrize(
    ("tried", "text"),
    [
        ([(Precision.FP8, True)], " in FP8"),
        ([(Precision.FP8, False), (Precision.FP16, True)], " in FP16, because FP8 does not: golden mismatch"),
        ([(Precision.FP16, True), (Precision.FP8, True)], ""),
        ([(Precision.FP16, True), (Precision.BF16, False)], ""),
    ],
)
def test_the_last_line_names_the_precision_that_serves(tried: list[tuple[Precision, bool]], text: str) -> None:
    results = tuple(tried_engine(precision, passed=passed) for precision, passed in tried)
    verification = cast(Verification, SimpleNamespace(tried=results, tier=Tier.ENGINE))
    assert messages._in_precision(verification) == text
