"""What a benchmark of a run adds to its figures, and when it adds nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from deploytool import plain
from deploytool.difference import Value, benched, sides
from deploytool.difference.budgets import Outcome, judge, parse

HERE = "One CPU (2 threads)"


def written(home: Path, **changes: Any) -> Path:
    """A run's folder, with one graph if it has none, and a benchmark of it at two batches."""
    if not (home / "halve").exists():
        (home / "halve").mkdir()
        (home / "halve" / "graph.onnx").write_bytes(b"graph")
    latency = {"p50_ms": 2.0, "p90_ms": 3.0, "p99_ms": 5.0, "cpu_ms": 2.0, "held_up": 0.0, "wall_ms": [2.0, 3.0]}
    ratio = {"value": 4.0, "low": 3.5, "high": 4.5}
    rows = [
        {"name": "eager", "file": "", "runner": "eager", "status": "measured", "latency": latency, "ratio": None},
        {"name": "halve", "file": "graph.onnx", "status": "measured", "latency": latency, "ratio": ratio},
        {
            "name": "build/engine.plan",
            "file": "engine.plan",
            "status": "built, not run",
            "latency": None,
            "ratio": None,
        },
    ]
    few = copy.deepcopy(rows)
    few[1]["latency"]["p99_ms"] = None  # type: ignore[index]  # a row's latency is a table
    even, uneven = ({"uneven": said, "frequency": 1.0} for said in (None, "it throttled"))
    sweeps = [{"batch": 1, "conditions": even, "rows": rows}, {"batch": 8, "conditions": uneven, "rows": few}]
    digests = {"halve/graph.onnx": plain.file_digest(home / "halve" / "graph.onnx")}
    told = {"schema": benched.SCHEMA, "machine": HERE, "threads": 2, "baseline": "eager", "sweeps": sweeps}
    (home / benched.FILE).write_text(plain.text({**told, "files": digests, **changes}))
    return home


def test_percentiles_and_speed_ups_are_told_by_batch(tmp_path: Path) -> None:
    found = {figure[:2]: figure[2] for figure in benched.of_run(written(tmp_path), HERE)}
    one, eight = "halve/graph.onnx at batch 1, 2 threads", "halve/graph.onnx at batch 8, 2 threads"
    assert found["p50", one] == found["p50", eight] == found["p50", "eager at batch 1, 2 threads"] == Value(2.0)
    assert (found["p90", one], found["p99", one]) == (Value(3.0), Value(5.0))
    assert found["speedup", one] == Value(4.0, 3.5, 4.5)
    assert ("p99", eight) not in found  # too few rounds
    assert ("speedup", eight) not in found  # too uneven a machine
    assert not [place for _, place in found if "engine" in place]


def test_another_machine_is_another_place(tmp_path: Path) -> None:
    places = {place for _, place, _ in benched.of_run(written(tmp_path, machine="L4"), HERE)}
    assert all(place.endswith(", L4") for place in places)


def test_speed_ups_over_something_else_are_no_speed_ups_over_eager(tmp_path: Path) -> None:
    found = benched.of_run(written(tmp_path, baseline="script"), HERE)
    assert {quantity for quantity, _, _ in found} == {"p50", "p90", "p99"}


@pytest.mark.parametrize(
    "changes",
    [{"schema": "deploytool.bench/9"}, {"sweeps": [{}]}, {"files": {"gone": "0"}}, {"threads": None, "sweeps": 1}],
)
def test_what_cannot_be_read_or_is_of_other_files_adds_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert benched.of_run(written(tmp_path, **changes), HERE) == []
    assert benched.of_run(tmp_path / "halve", HERE) == []
    (written(tmp_path) / "halve" / "graph.onnx").write_bytes(b"another")
    assert benched.of_run(tmp_path, HERE) == []


def test_a_budget_of_p99_is_judged_where_it_was_benched(finished: Path, run_copy: Path) -> None:
    plain_run, timed = sides.read(finished), sides.read(written(run_copy))
    budget = parse("p99@halve>+5%")
    assert judge(budget, timed, timed).outcome is Outcome.HELD
    assert judge(budget, timed, plain_run).outcome is Outcome.UNKNOWN
    assert judge(parse("p99>4ms"), timed, timed).outcome is Outcome.OVER
