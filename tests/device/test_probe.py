"""Whatever fails in a candidate, the next candidate is used, and the reason is reported."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploytool.bundle.manifest import Manifest, read_manifest
from deploytool.device import candidates, probe, verify, worker
from deploytool.device.candidates import TIERS, Candidate
from deploytool.device.environment import Environment
from deploytool.device.probe import WORKER, Limits, ProbeResult
from deploytool.device.worker import Request
from deploytool.errors import BadInput, NotVerified, ParityFailed, StageFailed
from deploytool.spec import Attempt, Precision
from tests.conftest import ROOT

REASONS = {
    "segfault": r"was killed by SIGSEGV",
    "hang": r"was stopped after",
    "out of memory": r"ended with status 1: MemoryError",
    "missing provider": r"ONNX Runtime cannot run on CUDA: it fell back to CPUExecutionProvider",
    "wrong output": r"golden mismatch: the largest error .*\d\.\de[-+]\d\d, the limit is \d\.\de[-+]\d\d",
    "wrong GPU": r"TensorRT refuses the engine on this GPU",
}


@pytest.fixture(scope="module")
def manifest(packed: Path) -> Manifest:
    return read_manifest(packed)


def fake(packed: Path, manifest: Manifest, tier: candidates.Tier) -> Candidate:
    """A way of any tier to the FP16 graph, which the fake backend does not look at."""
    file = next(file for file in manifest.files if file.path == manifest.graphs[1].path)
    device = "cpu" if tier == candidates.Tier.ORT_CPU else "cuda"
    return Candidate(
        tier, str(packed / file.path), file.size, file.sha256, "fake", device, "", Precision.FP16, Precision.FP32
    )


def tried(packed: Path, manifest: Manifest, way: Candidate, fault: str, monkeypatch: pytest.MonkeyPatch) -> ProbeResult:
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("SAMPLE", str(packed / manifest.golden.path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    limits = Limits(seconds=1.0 if fault == "hang" else 60.0, gibibytes=8.0)
    worker = (sys.executable, str(Path(__file__).with_name("faulty.py")))
    return probe.probe(way, packed, manifest, 0.0, worker, limits)


@pytest.mark.parametrize("fault", REASONS)
@pytest.mark.parametrize("tier", TIERS)
def test_a_fault_falls_back_to_the_next_tier_with_a_reason(
    packed: Path, manifest: Manifest, tier: candidates.Tier, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = TIERS.index(tier)

    def prober(way: Candidate) -> ProbeResult:
        if way.tier == tier:
            return tried(packed, manifest, way, fault, monkeypatch)
        if TIERS.index(way.tier) > place:
            return ProbeResult(way.tier, "", Attempt.MEASURED)
        return ProbeResult(way.tier, "", Attempt.UNAVAILABLE, "not here")

    found = probe.probe_in_order([fake(packed, manifest, each) for each in TIERS], prober)
    assert re.search(REASONS[fault], found[place].reason)
    assert {each.status for each in found[:place]} <= {Attempt.UNAVAILABLE}
    served = probe.first_passed(found)
    if tier == TIERS[-1]:
        failure = probe.shortfall(found, None)
        assert served is None
        assert isinstance(failure, ParityFailed if fault == "wrong output" else NotVerified)
        assert f"{tier}: {found[place].reason}" in str(failure)
    else:
        assert len(found) == place + 2  # what is below the one that serves is not tried
        assert served is not None
        assert served.tier == TIERS[place + 1]
        assert probe.shortfall(found, None) is None


def test_a_working_candidate_is_measured(packed: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tried(packed, manifest, fake(packed, manifest, candidates.Tier.ENGINE), "none", monkeypatch)
    assert found.passed
    assert found.trial is not None
    assert found.trial.check.parity.max_error < 1e-5
    assert found.trial.rounds >= 7


@pytest.mark.parametrize(
    ("require", "serves", "held"),
    [
        ("trt", candidates.Tier.ENGINE, True),
        ("trt", candidates.Tier.ORT_TENSORRT, True),
        ("trt", candidates.Tier.ORT_CUDA, False),
        ("cuda", candidates.Tier.ORT_CUDA, True),
        ("cuda", candidates.Tier.ORT_CPU, False),
        ("cpu", candidates.Tier.ORT_CPU, True),
        (None, candidates.Tier.ORT_CPU, True),
    ],
)
def test_a_required_backend_is_the_minimum(require: str | None, serves: candidates.Tier, held: bool) -> None:
    above = TIERS[: TIERS.index(serves)]
    found = [ProbeResult(tier, "", Attempt.FAILED, "it crashed") for tier in above] + [
        ProbeResult(serves, "", Attempt.MEASURED)
    ]
    failure = probe.shortfall(found, require)
    assert (failure is None) == held
    if failure:
        assert isinstance(failure, NotVerified)
        assert all(f"{tier}: it crashed" in str(failure) for tier in above)


def test_onnx_runtime_on_the_cpu_is_the_last_candidate_and_works(packed: Path, manifest: Manifest) -> None:
    routes = verify.run_candidates(verify.check_integrity(packed), Environment("linux", "x86_64"))
    assert [way.tier for way in routes] == list(TIERS)
    assert [way.absent is None for way in routes] == [False, False, False, False, True]
    found = probe.probe(routes[-1], packed, manifest, 0.1)
    assert found.passed
    assert found.trial is not None
    assert found.trial.check.tolerance.max_error == manifest.tolerances[Precision.FP32].max_error


@pytest.mark.parametrize("tier", [candidates.Tier.ORT_CUDA, candidates.Tier.ORT_TENSORRT])
def test_a_missing_provider_does_not_fall_back_to_the_cpu(
    packed: Path, manifest: Manifest, tier: candidates.Tier
) -> None:
    """As on a machine with a GPU whose ONNX Runtime is the one for CPUs."""
    found = Environment("linux", "x86_64", "L4", "8.9", "13.0", {})
    way = next(way for way in verify.run_candidates(verify.check_integrity(packed), found) if way.tier == tier)
    assert way.absent is None
    status = probe.probe(way, packed, manifest, 0.1).reason
    assert re.search("ONNX Runtime cannot (run on CUDA|use TensorRT): this build of it has no", status)


def test_a_file_changed_after_the_check_is_not_opened(packed: Path, manifest: Manifest) -> None:
    way = verify.run_candidates(verify.check_integrity(packed), Environment("linux", "x86_64"))[-1]
    forged = Candidate(*(way.tier, way.path, way.size, "0" * 64, way.backend, way.device, "", way.precision, way.io))
    assert "has other bytes than the manifest says" in probe.probe(forged, packed, manifest, 0.1).reason


def test_the_worker_imports_nothing_from_the_working_folder(
    packed: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    routes = verify.run_candidates(verify.check_integrity(packed), Environment("linux", "x86_64"))
    assert WORKER[0] == sys.executable
    assert probe.probe(routes[-1], packed, manifest, 0.1).passed


def test_preprocessing_that_differs_from_the_host_is_refused(packed: Path, manifest: Manifest) -> None:
    way = verify.run_candidates(verify.check_integrity(packed), Environment("linux", "x86_64"))[-1]
    request = Request("try", str(packed), manifest, way, "")
    sample = worker._golden(request)
    worker._check_preprocessing(request, sample)
    for changed in ({"mean": (0.5, 0.5, 0.5)}, {"channels": "BGR"}, {"layout": "NHWC"}):
        how = replace(manifest.preprocessing, **changed)
        inputs = (replace(manifest.inputs[0], shape=("batch", 32, 32, 3)),) if "layout" in changed else manifest.inputs
        other = replace(request, manifest=replace(manifest, preprocessing=how, inputs=inputs))
        with pytest.raises(StageFailed, match="gives another tensor here"):
            worker._check_preprocessing(other, sample)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_refused(packed: Path, manifest: Manifest, number: float) -> None:
    request = Request("answer", str(packed), manifest, fake(packed, manifest, candidates.Tier.ORT_CPU), "")
    assert worker._guess("a.png", "logits", np.array([1.0, 2.0]), request).classes == (1, 0)
    with pytest.raises(BadInput, match=r"a\.png: logits is not finite"):
        worker._guess("a.png", "logits", np.array([1.0, number]), request)
