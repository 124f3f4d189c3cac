"""Bundles with INT8 on a device: it serves where it proves itself, and FP32 stands in with the reason."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deploytool.device
from deploytool import runtimes, serde
from deploytool.benchmark.ratio import Ratio
from deploytool.bundle.int8 import Choice, Why
from deploytool.bundle.manifest import NARROW_SCHEMA, SCHEMA, read_manifest, schema_of, write_manifest
from deploytool.data import golden
from deploytool.device import build, commands, messages, probe, verify, worker
from deploytool.device.candidates import CPU_TIERS, Candidate, Tier
from deploytool.device.environment import Environment, detect, mismatch
from deploytool.device.probe import Attempt, ProbeResult, Race
from deploytool.device.verify import Verification
from deploytool.device.worker import Request
from deploytool.errors import Refused
from deploytool.host import machine
from deploytool.results.int8_forms import Form
from deploytool.spec import Precision
from tests.device import int8_bundle
from tests.device.ort_cpu import HERE
from tests.device.test_build import LAPTOP, TRIAL, works
from tests.int8 import planted_bundles

ORT, OPENVINO = CPU_TIERS
WITH_VNNI = ("avx512_vnni",)


@pytest.fixture(scope="module")
def with_int8(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose INT8 graph every processor takes."""
    return int8_bundle.make(packed, tmp_path_factory.mktemp("int8") / "bundle", Form.U8S7)


@pytest.fixture
def copy(with_int8: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(with_int8, tmp_path / "bundle"))


def verified(folder: Path, here: Environment | None = None) -> Verification:
    checked = verify.check_integrity(folder)
    prober = partial(probe.probe, folder=folder, manifest=checked.manifest, seconds=0.0)
    return verify.verify(checked, here or replace(detect(), openvino=""), prober)


def last_line(result: Verification) -> str:
    return [*messages.verification_lines(result, every=False)][-1]


def on_cpu(folder: Path, here: Environment) -> list[Candidate]:
    return [each for each in verify.run_candidates(verify.check_integrity(folder), here) if each.tier in CPU_TIERS]


def test_int8_serves_where_it_proves_itself(with_int8: Path) -> None:
    result = verified(with_int8)
    int8 = result.tried[-1]
    assert (int8.tier, int8.int8, int8.passed) == (ORT, True, True)
    assert int8.trial is not None
    assert int8.trial.check.against == "its answers as quantised"
    assert last_line(result) == "It works here: ORT CPU serves in INT8."
    assert serde.decode(Verification, json.loads(serde.text(result))) == result


def test_openvino_proves_the_same_graph(with_int8: Path, both_runtimes: None) -> None:
    found = on_cpu(with_int8, replace(detect(), openvino="2026"))
    assert [(each.tier, each.is_int8) for each in found] == [
        (ORT, True),
        (ORT, False),
        (OPENVINO, True),
        (OPENVINO, False),
    ]
    result = probe.probe(found[2], with_int8, read_manifest(with_int8), 0.0)
    assert result.passed, result.reason


@pytest.mark.parametrize("fault", planted_bundles.FAULTS)
def test_a_wrong_int8_graph_breaks_the_golden_answers(copy: Path, fault: str) -> None:
    graph = (copy / int8_bundle.CPU_GRAPH).read_bytes()
    int8_bundle.put(copy, planted_bundles.planted(graph, fault, 1))
    trial = worker._try(Request("try", str(copy), read_manifest(copy), on_cpu(copy, HERE)[0], "")).trial
    assert trial is not None
    assert trial.check.broken


def test_where_int8_is_wrong_fp32_serves_with_the_reason(copy: Path) -> None:
    graph = (copy / int8_bundle.CPU_GRAPH).read_bytes()
    int8_bundle.put(copy, planted_bundles.planted(graph, "swapped scales", 1))
    result = verified(copy)
    refused, single = result.tried[-2:]
    assert (refused.int8, refused.status, single.int8, single.passed) == (True, Attempt.FAILED, False, True)
    assert "golden mismatch" in refused.reason
    assert result.tier is ORT
    assert last_line(result) == f"It works here: ORT CPU serves in FP32, because INT8 does not: {refused.reason}."


def test_a_truncated_graph_and_the_fp32_graph_in_its_place_are_refused(copy: Path) -> None:
    graph = (copy / int8_bundle.CPU_GRAPH).read_bytes()
    for other in (graph[: len(graph) // 2], (copy / read_manifest(copy).graphs[0].path).read_bytes()):
        int8_bundle.put(copy, other)
        assert not probe.probe(on_cpu(copy, HERE)[0], copy, read_manifest(copy), 0.0).passed


def test_a_service_starts_with_int8_and_falls_back_to_fp32(copy: Path) -> None:
    sample = golden.read(copy / "golden" / "golden.npz")
    with deploytool.device.open(copy, require="cpu") as model:
        in_int8 = model.run(**sample.inputs)["logits"]
        assert model.int8
    assert np.abs(in_int8 - sample.reference["logits"]).max() > 1e-4 * np.abs(sample.reference["logits"]).max()
    graph = (copy / int8_bundle.CPU_GRAPH).read_bytes()
    int8_bundle.put(copy, planted_bundles.planted(graph, "flipped zero point", 1))
    with deploytool.device.open(copy, require="cpu") as model:
        in_fp32 = model.run(**sample.inputs)["logits"]
        assert not model.int8
    assert np.abs(in_fp32 - sample.reference["logits"]).max() < 1e-5 * np.abs(sample.reference["logits"]).max()


@pytest.mark.parametrize(
    ("processor", "features", "refused"),
    [("x86_64", (), True), ("x86_64", WITH_VNNI, False), ("x86_64", ("avx_vnni",), False), ("aarch64", (), False)],
)
@pytest.mark.parametrize("form", [Form.U8S8, Form.S8S8])
def test_a_form_that_saturates_is_not_for_x86_without_vnni(
    copy: Path, form: Form, processor: str, features: tuple[str, ...], refused: bool
) -> None:
    manifest = read_manifest(copy)
    cpu, engine = manifest.int8
    stated = replace(cpu, form=form, x86_features=machine.VNNI)
    write_manifest(copy, replace(manifest, int8=(stated, engine)))
    first, second = on_cpu(copy, replace(HERE, processor=processor, features=features))[:2]
    assert first.is_int8
    assert not second.is_int8
    assert ("saturate without VNNI" in (first.absent or "")) is refused
    assert second.absent is None


def test_a_form_that_cannot_saturate_is_for_every_processor(with_int8: Path) -> None:
    assert read_manifest(with_int8).int8[0].x86_features == ()
    assert on_cpu(with_int8, HERE)[0].absent is None


def test_a_runtime_without_a_gain_gets_fp32(copy: Path) -> None:
    manifest = read_manifest(copy)
    without = {**manifest.int8_for, runtimes.ORT: Choice("", Why.NO_GAIN, int8_bundle.GAIN)}
    write_manifest(copy, replace(manifest, int8_for=without))
    found = on_cpu(copy, replace(HERE, openvino="2026"))
    assert [(each.tier, each.is_int8) for each in found] == [(ORT, False), (OPENVINO, True), (OPENVINO, False)]


def test_an_older_version_would_be_told_another_schema(with_int8: Path, packed: Path) -> None:
    single, narrow = read_manifest(packed), read_manifest(with_int8)
    assert "int8" not in json.loads((packed / "manifest.json").read_text())
    assert schema_of(single.graphs, single.engines, ()) == SCHEMA == "deploytool.bundle/4"
    assert schema_of(narrow.graphs, narrow.engines, ()) == NARROW_SCHEMA == "deploytool.bundle/5"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": SCHEMA}, "its schema is that of other bundles"),
        ({"int8": ()}, "an INT8 graph has no golden answers"),
        (
            {"int8_for": {"ort": Choice("models/tiny/1/model.onnx", Why.FASTER)}},
            "the INT8 graph of a runtime is invalid",
        ),
        ({"int8_for": {"ort": Choice("engines/int8.onnx", Why.FASTER)}}, "the INT8 graph of a runtime is invalid"),
        ({"int8_for": {"tvm": Choice("", Why.WORSE)}}, "the INT8 graph of a runtime is invalid"),
    ],
)
def test_an_invalid_manifest_is_refused(copy: Path, change: dict[str, Any], problem: str) -> None:
    write_manifest(copy, replace(read_manifest(copy), **change))
    with pytest.raises(Refused, match=problem):
        read_manifest(copy)


def test_missing_golden_answers_are_refused(copy: Path) -> None:
    manifest = read_manifest(copy)
    write_manifest(copy, replace(manifest, int8=tuple(replace(each, answers="golden/x.npz") for each in manifest.int8)))
    with pytest.raises(Refused, match=r"it refers to golden/x\.npz, and lists no such file"):
        read_manifest(copy)


def test_the_winner_of_each_runtime_races(with_int8: Path) -> None:
    """INT8 fails in ONNX Runtime and works in OpenVINO: FP32 there races INT8 here."""
    found, raced = on_cpu(with_int8, replace(HERE, openvino="2026")), list[tuple[Tier, bool]]()

    def prober(candidate: Candidate) -> ProbeResult:
        status = Attempt.FAILED if candidate.tier is ORT and candidate.is_int8 else Attempt.MEASURED
        return ProbeResult(candidate.tier, Path(candidate.path).name, status, int8=candidate.is_int8)

    def racer(first: Candidate, second: Candidate) -> Race:
        raced.extend((each.tier, each.is_int8) for each in (first, second))
        return Race(first.tier, second.tier, second.tier, 1)

    probing = probe.probe_in_order(found, prober, racer=racer)
    assert raced == [(ORT, False), (OPENVINO, True)]
    assert probe.serving(found, probing.results) == found[2]
    assert len(probing.results) == 3, "FP32 is not tried where INT8 works"


def test_an_int8_engine_is_built_and_serves_if_it_is_faster(with_int8: Path, tmp_path: Path) -> None:
    checked, built = verify.check_integrity(with_int8), tmp_path / "tiny.built"
    common = (checked.folder, checked.manifest, LAPTOP, built)

    def racer(first: Candidate, second: Candidate) -> Race:
        assert (first.is_int8, second.is_int8, second.answers) == (False, True, "golden/engine.npz")
        return Race(first.tier, second.tier, first.tier, 1, Ratio(1.2, 1.1, 1.3))

    half = build.build(*common, works, lambda *step: None)
    int8 = build.build_narrow(*common, half, works, racer, lambda *step: None, Precision.INT8)
    assert (int8.precision, int8.trial, int8.gain) == (Precision.INT8, TRIAL, Ratio(1.2, 1.1, 1.3))
    assert (built / int8.file.path).read_bytes()[:4] == b"vtrt"
    assert [each.is_int8 for each in build.built_candidates(*common)] == [True, False]
    assert "INT8 has 1.20× (1.10–1.30) the speed of FP16" in "\n".join(messages.build_lines(int8, built))
    for gain in (None, Ratio(1.2, 0.9, 1.3)):
        build._write(built, replace(int8, gain=gain))
        assert [each.is_int8 for each in build.built_candidates(*common)] == [False]


def test_a_bf16_engine_needs_compute_capability_8_0(packed: Path) -> None:
    (engine,) = read_manifest(packed).engines
    older = replace(LAPTOP, capability="7.5")
    narrow = replace(engine, precision=Precision.BF16, capabilities=("7.5", "8.9"))
    assert mismatch(narrow, LAPTOP) is None
    assert mismatch(narrow, older) == "compute capability 7.5 has no BF16, which starts with 8.0"


def speeds(folder: Path, speedup: Ratio | None, *failing: tuple[Tier, bool]) -> tuple[probe.Int8Speed, ...]:
    """INT8 against FP32 in each runtime, with a race that has this result; `failing` are tiers, in INT8 or not."""
    found = on_cpu(folder, replace(HERE, openvino="2026"))

    def prober(candidate: Candidate) -> ProbeResult:
        failed = (candidate.tier, candidate.is_int8) in failing
        status = Attempt.FAILED if failed else Attempt.MEASURED
        return ProbeResult(candidate.tier, Path(candidate.path).name, status, int8=candidate.is_int8)

    def racer(first: Candidate, second: Candidate) -> Race:
        assert (first.tier, first.is_int8, second.is_int8) == (second.tier, False, True)
        return Race(first.tier, second.tier, first.tier, 1, speedup, "" if speedup else "it hung")

    results = probe.probe_in_order(found, prober, every=True).results
    return probe.int8_speeds(found, results, racer)


@pytest.mark.parametrize(
    ("speedup", "text"),
    [
        (Ratio(1.3, 1.2, 1.4), "ORT CPU INT8 has 1.30× (1.20–1.40) the speed of FP32 at batch 1, timed in turn"),
        (Ratio(1.1, 0.9, 1.2), "INT8 has 1.10× (0.90–1.20) the speed of FP32 at batch 1, timed in turn: no gain"),
        (None, "ORT CPU INT8 and FP32 were not compared: it hung"),
    ],
)
def test_int8_is_timed_in_turn_with_fp32_in_each_runtime(with_int8: Path, speedup: Ratio | None, text: str) -> None:
    both = speeds(with_int8, speedup)
    assert [(each.tier, each.speedup) for each in both] == [(ORT, speedup), (OPENVINO, speedup)]
    result = replace(verified(with_int8), int8_speeds=both)
    (line,) = [
        line for line in messages.verification_lines(result, every=True) if "ORT CPU INT8" in line and "FP32" in line
    ]
    assert line.endswith(text)
    assert serde.decode(Verification, json.loads(serde.text(result))) == result
    assert "int8_speeds" not in serde.text(verified(with_int8))


def test_int8_is_compared_only_where_both_work(with_int8: Path, packed: Path) -> None:
    ratio = Ratio(1.3, 1.2, 1.4)
    assert [each.tier for each in speeds(with_int8, ratio, (ORT, True))] == [OPENVINO]
    assert [each.tier for each in speeds(with_int8, ratio, (OPENVINO, False))] == [ORT]
    assert speeds(packed, ratio) == ()


def test_bench_times_int8_against_fp32_and_verify_does_not(with_int8: Path) -> None:
    done = commands.bench(with_int8, seconds=0.1, say=lambda line: None)
    assert isinstance(done.document, Verification)
    (speed,) = done.document.int8_speeds
    assert speed.tier is ORT
    assert speed.speedup is not None
    assert speed.speedup.low <= speed.speedup.value <= speed.speedup.high
    assert messages.int8_text(speed) in "\n".join(done.lines)
    quick = commands.verify(with_int8, say=lambda line: None).document
    assert isinstance(quick, Verification)
    assert quick.int8_speeds == ()
