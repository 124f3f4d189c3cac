from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploytool.backends import eager, onnxruntime
from deploytool.data import golden, images
from deploytool.data.golden import Arrays, Golden
from deploytool.faults import run as faults_run
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph
from deploytool.faults.run import CheckSet, Subject
from deploytool.parity.replay import replay
from deploytool.results.faults import ENGINE, GRAPH, DetectionCount, FaultFamily, FaultsResult, MissedFault
from tests.conftest import TINY
from tests.stages.test_validate import spoil

WEIGHTS, GOLDEN = "load/weights.safetensors", "golden/golden.npz"


def subject(run: Path, **changed: Path) -> Subject:
    files = [
        run / WEIGHTS,
        changed.get("sample", run / GOLDEN),
        *(run / f"{at}/model.onnx" for at in ("rewrite", "fp16")),
    ]
    return faults_run.subject(*files, half=True, wanted={}, fresh=16)


def run_faults(case: Subject, count: int = 3) -> FaultsResult:
    return faults_run.run(case, count, 0, lambda done, total: None)


def insensitive_sample(run: Path, out: Path) -> Path:
    """A golden sample of uniform grey images, which activate few channels."""
    pixels = np.full((4, 32, 32, 3), 128, np.uint8)
    inputs = {"input": images.normalise(pixels, TINY.preprocessing)}
    with eager.start(run / WEIGHTS) as single, eager.start(run / WEIGHTS, double=True) as double:
        answers, truth = replay(single, inputs), replay(double, inputs)
    kept = golden.read(run / GOLDEN)
    labels = np.full(4, -1)
    golden.write(out, Golden(pixels, inputs, answers, truth, labels, TINY.preprocessing, kept.noise))
    return out


def test_the_golden_cases_of_a_run_detect_every_relevant_fault(finished: Path) -> None:
    result = run_faults(subject(finished), count=6)
    assert result.missed == ()
    assert result.helpful == ()
    assert result.count(GRAPH, "caught") > 50
    assert result.count(ENGINE, "caught") > 30
    assert sum(family.equivalent for family in result.families) > 0
    for family in result.families:
        for counts in family.by_check.values():
            assert counts.caught + counts.harmless + counts.missed == family.planted - family.equivalent


def test_insensitive_golden_cases_miss_faults_that_the_helpful_cases_detect(finished: Path, tmp_path: Path) -> None:
    sample = insensitive_sample(finished, tmp_path / "insensitive_sample.npz")
    case = subject(finished, sample=sample)
    result = run_faults(case)
    assert {missed.family for missed in result.missed} >= {"colours_swapped"} or len(result.missed) > 3
    assert all(missed.effect > 2 for missed in result.missed)
    assert result.weak
    assert result.helpful
    faults_run.write_helpful_cases(tmp_path / "cases.npz", case, result)
    pixels, inputs = golden.read_cases(tmp_path / "cases.npz")
    assert len(pixels) == len(inputs["input"]) == len(result.helpful)
    seen = golden.read(sample)
    joined = {"input": np.concatenate([seen.inputs["input"], inputs["input"]])}
    with eager.start(finished / WEIGHTS) as single, eager.start(finished / WEIGHTS, double=True) as double:
        answers, truth = replay(single, joined), replay(double, joined)
    whole = dataclasses.replace(seen, inputs=joined, outputs=answers, reference=truth)
    assert run_faults(dataclasses.replace(case, sample=whole)).missed == ()


def test_a_graph_that_fails_its_checks_gives_no_families(run_copy: Path) -> None:
    spoil(run_copy / "fp16" / "model.onnx", "classifier.weight", factor=3.0)
    assert run_faults(subject(run_copy)).families == ()


def test_without_fp16_there_is_one_check(finished: Path) -> None:
    case = subject(finished)
    single = dataclasses.replace(case, graph=case.before, half=False)
    result = run_faults(single, count=1)
    assert {name for family in result.families for name in family.by_check} == {GRAPH}
    assert result.count(GRAPH, "caught") > 10


@pytest.mark.parametrize(
    ("effects", "caught", "weak"),
    [((), 20, False), ((3.9,), 20, False), ((4.1,), 20, True), ((2.1, 2.2), 20, False), ((2.1, 2.2, 2.3), 20, True)],
)
def test_detection_is_weak_if_it_misses_a_large_fault_or_many(
    effects: tuple[float, ...], caught: int, weak: bool
) -> None:
    missed = tuple(MissedFault(GRAPH, "bias_dropped", "here", 0.1, effect) for effect in effects)
    family = FaultFamily("bias_dropped", 30, 0, {GRAPH: DetectionCount(caught, 0, len(effects), 1e-3)})
    assert FaultsResult((family,), missed, 8, ()).weak is weak


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [([], ()), ([{3}], (3,)), ([{1, 2}, {2, 3}, {2}], (2,)), ([{1}, {2}, {1, 5}], (1, 2))],
)
def test_the_cover_has_few_cases(wanted: list[set[int]], chosen: tuple[int, ...]) -> None:
    assert faults_run._smallest_cover(wanted) == chosen


def test_a_fault_that_white_noise_does_not_reveal_is_detected_on_images(finished: Path) -> None:
    """White noise has no bright areas: an activation clipped above the range of noise does not change on it."""
    case = subject(finished)
    bench = faults_run.prepare(case)
    noise = np.random.default_rng(0).integers(96, 160, (8, 32, 32, 3)).astype(np.uint8)
    inputs = {"input": images.normalise(noise, TINY.preprocessing)}
    first = bench.graph.nodes("Relu")[0].output[0]
    limit = 1.05 * _largest(bench, first, inputs)
    assert _largest(bench, first, case.sample.inputs) > limit
    fault = Fault(first, lambda faulty: _cut(faulty, first, limit))
    faulty = bench.graph.copy()
    fault.plant(faulty)
    with (
        onnxruntime.start(faulty.model.SerializeToString()) as wrong,
        onnxruntime.start(bench.graph.model.SerializeToString()) as right,
    ):
        np.testing.assert_array_equal(wrong(**inputs)["logits"], right(**inputs)["logits"])
    assert all(trial.caught for trial in faults_run.try_fault(bench, fault).values())


def _largest(bench: CheckSet, tensor: str, inputs: Arrays) -> float:
    copy = bench.graph.copy()
    copy.model.graph.output.append(onnx.ValueInfoProto(name=tensor))
    with onnxruntime.start(copy.model.SerializeToString()) as session:
        return float(session(**inputs)[tensor].max())


def _cut(faulty: FaultGraph, tensor: str, limit: float) -> None:
    node = faulty.producer(tensor)
    assert node is not None
    faulty.put("cut/smallest", np.array(0.0, np.float32))
    faulty.put("cut/largest", np.array(limit, np.float32))
    node.op_type = "Clip"
    node.input.extend(["cut/smallest", "cut/largest"])


def test_faults_tried_in_parallel_have_the_same_results(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = subject(finished)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    many = run_faults(case, count=2)
    monkeypatch.setattr(faults_run, "_PARALLEL", 1)
    assert run_faults(case, count=2) == many
