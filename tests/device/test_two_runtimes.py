"""ONNX Runtime and OpenVINO on one CPU: the faster one serves, and each stands in for the other."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import deploytool.device
from deploytool import serde
from deploytool.benchmark.ratio import Ratio
from deploytool.bundle.manifest import read_manifest
from deploytool.data import golden
from deploytool.device import messages, probe, verify
from deploytool.device.candidates import CPU_TIERS, Candidate, SideFile, Tier, candidates, unavailable
from deploytool.device.environment import Environment
from deploytool.device.probe import Attempt, ProbeResult, Race
from deploytool.device.verify import Verification
from tests.device.ort_cpu import HERE

BOTH = replace(HERE, onnxruntime="1.31.1", openvino="2026.4.1")
ORT, OPENVINO = CPU_TIERS


def cpu_pair(packed: Path, environment: Environment = BOTH) -> tuple[Candidate, Candidate]:
    found = verify.run_candidates(verify.check_integrity(packed), environment)
    first, second = (candidate for candidate in found if candidate.tier in CPU_TIERS)
    return first, second


def probing(packed: Path, outcomes: dict[Tier, Attempt], speedup: Ratio | None) -> probe.Probing:
    """The candidates with these outcomes, and a race with this result."""

    def racer(first: Candidate, second: Candidate) -> Race:
        serves = second.tier if speedup and speedup.low > 1 else first.tier
        return Race(first.tier, second.tier, serves, 1, speedup)

    def prober(candidate: Candidate) -> ProbeResult:
        return ProbeResult(candidate.tier, Path(candidate.path).name, outcomes[candidate.tier], "why")

    return probe.probe_in_order(cpu_pair(packed), prober, racer=racer)


@pytest.mark.parametrize(
    ("ort", "openvino", "speedup", "serves", "tried"),
    [
        (Attempt.MEASURED, Attempt.MEASURED, Ratio(1.2, 1.1, 1.3), OPENVINO, [OPENVINO, ORT]),
        (Attempt.MEASURED, Attempt.MEASURED, Ratio(1.2, 0.9, 1.3), ORT, [ORT, OPENVINO]),
        (Attempt.MEASURED, Attempt.MEASURED, None, ORT, [ORT, OPENVINO]),
        (Attempt.MEASURED, Attempt.FAILED, None, ORT, [ORT, OPENVINO]),
        (Attempt.FAILED, Attempt.MEASURED, None, OPENVINO, [ORT, OPENVINO]),
        (Attempt.FAILED, Attempt.FAILED, None, None, [ORT, OPENVINO]),
    ],
)
def test_the_runtime_that_serves(
    ort: Attempt, openvino: Attempt, speedup: Ratio | None, serves: Tier | None, tried: list[Tier], packed: Path
) -> None:
    result = probing(packed, {ORT: ort, OPENVINO: openvino}, speedup)
    working = probe.first_passed(result.results)
    assert (working.tier if working else None) == serves
    assert [each.tier for each in result.results] == tried
    assert (result.race is not None) == (ort is openvino is Attempt.MEASURED)
    assert (probe.shortfall(result.results, "cpu") is None) == (serves is not None)
    if serves:
        assert probe.serving(cpu_pair(packed), result.results).tier == serves


def test_without_openvino_nothing_more_is_tried(packed: Path) -> None:
    pair = cpu_pair(packed, replace(BOTH, openvino=""))
    assert pair[1].absent == "OpenVINO is not installed"
    passed = probe.probe_in_order(
        pair, lambda candidate: ProbeResult(candidate.tier, "", Attempt.MEASURED), racer=lambda *_: pytest.fail("raced")
    )
    assert [each.tier for each in passed.results] == [ORT]


def test_side_files_are_not_for_openvino(packed: Path) -> None:
    manifest = read_manifest(packed)
    weights = (SideFile("model.onnx.data", 1, "0" * 64),)
    built = unavailable(Tier.BUILT, "none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deploytool.device.candidates.side_files", lambda *_: weights)
        found = candidates(packed, manifest, BOTH, built)
    assert [each.absent for each in found if each.tier is OPENVINO] == [
        "OpenVINO cannot take verified weights beside the graph"
    ]


def test_openvino_proves_itself_with_the_golden_cases_and_is_timed_in_turn(packed: Path, both_runtimes: None) -> None:
    manifest, (first, second) = read_manifest(packed), cpu_pair(packed)
    result = probe.probe(second, packed, manifest, 0.1)
    assert result.passed, result.reason
    race = probe.race(first, second, packed, manifest, 0.1)
    assert race.speedup is not None, race.reason
    assert race.speedup.low <= race.speedup.value <= race.speedup.high
    assert race.serves == (OPENVINO if race.speedup.low > 1 else ORT)


def test_a_race_that_fails_leaves_the_first_to_serve(packed: Path) -> None:
    manifest, (first, second) = read_manifest(packed), cpu_pair(packed)
    race = probe.race(first, second, packed, manifest, 0.1, (sys.executable, "-c", "raise SystemExit(3)"))
    assert (race.serves, race.speedup) == (ORT, None)
    assert "status 3" in race.reason


def test_a_service_runs_on_openvino_where_onnx_runtime_fails(
    packed: Path, monkeypatch: pytest.MonkeyPatch, both_runtimes: None
) -> None:
    original = probe.probe

    def without_ort(candidate: Candidate, *arguments: object) -> ProbeResult:
        if candidate.tier is ORT:
            return ProbeResult(ORT, "model.onnx", Attempt.FAILED, "it crashed")
        return original(candidate, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("deploytool.device.serve.probe.probe", without_ort)
    sample = golden.read(packed / "golden" / "golden.npz")
    with deploytool.device.open(packed, require="cpu") as model:
        assert (model.tier, model.race) == (OPENVINO, None)
        logits = model.run(**sample.inputs)["logits"]
    assert np.abs(logits - sample.reference["logits"]).max() < 1e-5 * np.abs(sample.reference["logits"]).max()


@pytest.mark.parametrize(
    ("race", "text"),
    [
        (Race(ORT, OPENVINO, OPENVINO, 1, Ratio(1.2, 1.1, 1.3)), "has 1.20× (1.10–1.30) the speed of ORT CPU at batch"),
        (Race(ORT, OPENVINO, ORT, 1, Ratio(0.9, 0.8, 1.1)), "timed in turn, not significantly faster"),
        (Race(ORT, OPENVINO, ORT, 1, reason="it hung"), "were not compared, so ORT CPU serves: it hung"),
    ],
)
def test_the_race_is_told_and_recorded(race: Race, text: str) -> None:
    result = Verification("bundle", "tiny", "0" * 64, "0" * 64, 1, "cpu", (), (), race.serves, race)
    assert text in "\n".join(messages.verification_lines(result, every=False))
    assert serde.decode(Verification, json.loads(serde.text(result))) == result
    assert "race" not in serde.text(replace(result, race=None))


def test_a_file_that_was_changed_is_not_opened_with_openvino(packed: Path, both_runtimes: None) -> None:
    forged = replace(cpu_pair(packed)[1], sha256="0" * 64)
    result = probe.probe(forged, packed, read_manifest(packed), 0.0)
    assert "has other bytes than the manifest says" in result.reason
