"""What a benchmark of a run adds to its figures, and when it adds nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploytool import serde
from deploytool.benchmark import result
from deploytool.diff import Value, bench_figures, sides
from deploytool.diff.budgets import Outcome, judge, parse
from tests.benched import MACHINE, benchmark


def written(home: Path, **changes: Any) -> Path:
    """A run's folder, with one graph if it has none, and a benchmark of it at two batches."""
    if not (home / "fp16").exists():
        (home / "fp16").mkdir()
        (home / "fp16" / "model.onnx").write_bytes(b"graph")
    told = json.loads(serde.text(benchmark(home)))
    (home / result.FILE).write_text(json.dumps({**told, **changes}))
    return home


def test_percentiles_and_speed_ups_are_told_by_batch(tmp_path: Path) -> None:
    found = {figure[:2]: figure[2] for figure in bench_figures.of_run(written(tmp_path), MACHINE)}
    one, eight = "fp16/model.onnx at batch 1, 2 threads", "fp16/model.onnx at batch 8, 2 threads"
    assert (found["p50", one], found["p50", eight]) == (Value(2.0), Value(16.0))
    assert found["p50", "eager at batch 1, 2 threads"] == Value(4.0)
    assert (found["p90", one], found["p99", one]) == (Value(3.0), Value(5.0))
    assert found["speedup", one] == Value(2.0, 1.9, 2.1)
    assert ("p99", eight) not in found  # too few rounds
    assert ("speedup", eight) not in found  # too uneven a machine
    assert not [place for _, place in found if "engine" in place]


def test_another_machine_is_another_place(tmp_path: Path) -> None:
    places = {place for _, place, _ in bench_figures.of_run(written(tmp_path, machine="L4"), MACHINE)}
    assert all(place.endswith(", L4") for place in places)


def test_speed_ups_over_something_else_are_no_speed_ups_over_eager(tmp_path: Path) -> None:
    found = bench_figures.of_run(written(tmp_path, baseline="torchscript"), MACHINE)
    assert {quantity for quantity, _, _ in found} == {"p50", "p90", "p99"}


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "deploytool.bench/9"},
        {"sweeps": [{}]},
        {"files": {"gone": "0"}},
        {"threads": None, "sweeps": 1},
    ],
)
def test_what_cannot_be_read_or_is_of_other_files_adds_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert bench_figures.of_run(written(tmp_path, **changes), MACHINE) == []
    assert bench_figures.of_run(tmp_path / "fp16", MACHINE) == []
    (written(tmp_path) / "fp16" / "model.onnx").write_bytes(b"another")
    assert bench_figures.of_run(tmp_path, MACHINE) == []


def test_a_budget_of_p99_is_judged_where_it_was_benched(finished: Path, run_copy: Path) -> None:
    plain_run, timed = sides.read(finished), sides.read(written(run_copy))
    budget = parse("p99@halve>+5%")
    assert judge(budget, timed, timed).outcome is Outcome.HELD
    assert judge(budget, timed, plain_run).outcome is Outcome.UNKNOWN
    assert judge(parse("p99>4ms"), timed, timed).outcome is Outcome.OVER
