"""Figures of a run's benchmark: subjects, values, and when there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploytool import serde
from deploytool.benchmark import result
from deploytool.diff import bench_figures, sides
from deploytool.diff.budgets import Outcome, judge, parse
from deploytool.diff.compare import Value
from tests.benched import MACHINE, benchmark


def written(home: Path, **changes: Any) -> Path:
    """Writes a benchmark at two batch sizes into a run's folder, and a graph if it has none."""
    if not (home / "fp16").exists():
        (home / "fp16").mkdir()
        (home / "fp16" / "model.onnx").write_bytes(b"graph")
    document = json.loads(serde.text(benchmark(home)))
    (home / result.FILE).write_text(json.dumps({**document, **changes}))
    return home


def test_percentiles_and_speed_ups_have_a_subject_for_each_batch_size(tmp_path: Path) -> None:
    values = {figure[:2]: figure[2] for figure in bench_figures.of_run(written(tmp_path), MACHINE)}
    batch_1, batch_8 = "fp16/model.onnx at batch 1, 2 threads", "fp16/model.onnx at batch 8, 2 threads"
    assert (values["p50", batch_1], values["p50", batch_8]) == (Value(2.0), Value(16.0))
    assert values["p50", "eager at batch 1, 2 threads"] == Value(4.0)
    assert (values["p90", batch_1], values["p99", batch_1]) == (Value(3.0), Value(5.0))
    assert values["speedup", batch_1] == Value(2.0, 1.9, 2.1)
    assert ("p99", batch_8) not in values  # too few rounds
    assert ("speedup", batch_8) not in values  # the machine was too uneven
    assert not [subject for _, subject in values if "engine" in subject]


def test_a_benchmark_from_another_machine_has_its_own_subjects(tmp_path: Path) -> None:
    subjects = {subject for _, subject, _ in bench_figures.of_run(written(tmp_path, machine="L4"), MACHINE)}
    assert all(subject.endswith(", L4") for subject in subjects)


def test_speed_ups_over_another_baseline_are_ignored(tmp_path: Path) -> None:
    figures = bench_figures.of_run(written(tmp_path, baseline="torchscript"), MACHINE)
    assert {quantity for quantity, _, _ in figures} == {"p50", "p90", "p99"}


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "deploytool.bench/9"},
        {"sweeps": [{}]},
        {"files": {"gone": "0"}},
        {"threads": None, "sweeps": 1},
    ],
)
def test_a_malformed_or_outdated_benchmark_has_no_figures(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert bench_figures.of_run(written(tmp_path, **changes), MACHINE) == []
    assert bench_figures.of_run(tmp_path / "fp16", MACHINE) == []
    (written(tmp_path) / "fp16" / "model.onnx").write_bytes(b"another")
    assert bench_figures.of_run(tmp_path, MACHINE) == []


def test_a_p99_budget_needs_a_benchmark(finished: Path, run_copy: Path) -> None:
    without, timed = sides.read(finished), sides.read(written(run_copy))
    budget = parse("p99@fp16>+5%")
    assert judge(budget, timed, timed).outcome is Outcome.WITHIN
    assert judge(budget, timed, without).outcome is Outcome.UNDECIDED
    assert judge(parse("p99>4ms"), timed, timed).outcome is Outcome.OVER
