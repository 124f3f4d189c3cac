"""`deploytool diff`: tables and document agree, and a budget decides the exit code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from deploytool.diff.budgets import Outcome
from deploytool.results import report
from tests.conftest import Command


@pytest.fixture
def worse(run_copy: Path) -> Path:
    """A run whose FP16 graph has three times the error and is much slower."""
    path = run_copy / "validate" / "report.json"
    written = report.read(path)
    comparisons = []
    for comparison in written.comparisons:
        if (comparison.stage, comparison.runner) == ("fp16", "fp16_emulation"):
            *before, last = comparison.checks
            parity = dataclasses.replace(last.parity, max_error=3 * last.parity.max_error)
            comparison = dataclasses.replace(comparison, checks=(*before, dataclasses.replace(last, parity=parity)))
        comparisons.append(comparison)
    speeds = tuple(
        dataclasses.replace(speed, ratio=0.01, low=0.009, high=0.011) if speed.stage == "fp16" else speed
        for speed in written.speeds
    )
    report.write(path, dataclasses.replace(written, comparisons=tuple(comparisons), speeds=speeds))
    return run_copy


def test_a_run_compared_with_itself(deploytool: Command, finished: Path) -> None:
    budgets = [word for text in ("parity>2x", "p50>+5%", "size>+10%", "top1<-0.5%") for word in ("--fail-if", text)]
    done = deploytool("diff", str(finished), str(finished), *budgets)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Verdict: within budget (4 of 4); the same."
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""


def test_a_regression_is_printed_and_fails_only_with_a_budget(deploytool: Command, finished: Path, worse: Path) -> None:
    shown = deploytool("diff", str(finished), str(worse), COLUMNS="80")
    assert shown.returncode == 0, shown.stderr
    assert max(len(line) for line in shown.stdout.splitlines() if not line.startswith(("A:", "B:"))) <= 80
    assert "3×, worse" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "Verdict: 0 facts and 3 figures differ."
    failed = deploytool("diff", str(finished), str(worse), "--fail-if", "parity>2x", "--fail-if", "speedup<0.95x")
    assert failed.returncode == 10
    last = failed.stdout.splitlines()[-1]
    assert last == "Verdict: FAIL, over budget: parity>2x, speedup<0.95x; 0 facts and 3 figures differ."
    assert "parity>2x: over budget: fp16/model.onnx in FP16 arithmetic: " in failed.stderr
    assert deploytool("diff", str(worse), str(finished), "--fail-if", "parity>2x").returncode == 0


def test_the_document_agrees_with_the_table(deploytool: Command, finished: Path, worse: Path) -> None:
    done = deploytool("diff", str(finished), str(worse), "--fail-if", "parity>2x", "--fail-if", "size>+1%", "--json")
    assert done.returncode == 10
    document = json.loads(done.stdout)
    assert document["error"]["exit_code"] == 10
    assert [budget["outcome"] for budget in document["result"]["budgets"]] == [Outcome.OVER, Outcome.WITHIN]
    shown = deploytool("diff", str(finished), str(worse)).stdout
    for change in document["result"]["difference"]["figures"]:
        assert change["subject"].split(" ")[0] in shown
        assert change["factor"] is not None
    assert {change["quantity"] for change in document["result"]["difference"]["figures"]} == {
        "parity",
        "noise",
        "speedup",
    }


def test_a_budget_without_a_measurement_is_not_verified(deploytool: Command, finished: Path) -> None:
    done = deploytool("diff", str(finished), str(finished), "--fail-if", "p99>+5%")
    assert done.returncode == 6
    assert "no measurement of p99" in done.stderr
    assert done.stdout.splitlines()[-1] == "Verdict: not verified: p99>+5% cannot be judged; the same."


def test_a_bundle_compared_with_a_device_result(deploytool: Command, packed: Path, tmp_path: Path) -> None:
    result = deploytool("bench", str(packed), "--seconds", "0.1", "--json")
    (tmp_path / "result.json").write_text(result.stdout)
    budgets = ["--fail-if", "parity>1e-3", "--fail-if", "p90>10s", "--fail-if", "top1<100%"]
    done = deploytool("diff", str(packed), "result.json", *budgets, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "Verdict: within budget (3 of 3); 0 facts and 0 figures differ," in done.stdout
    assert deploytool("diff", str(packed), "result.json", "--fail-if", "parity>1e-12").returncode == 10
    again = deploytool("diff", "result.json", "result.json", "--fail-if", "p50>+5%", "--fail-if", "parity>1x")
    assert again.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "problem", "remedy"),
    [
        (("--fail-if", "pairty>2x"), "unknown figure 'pairty'", "parity, noise,"),
        (("--fail-if", "p99=5"), "is not a budget", "parity>2x"),
        (("--fail-if", "parity@hlave>2x"), "unknown subject 'hlave'", "fp16/model.onnx"),
    ],
)
def test_an_invalid_budget_is_reported_in_one_line(
    deploytool: Command, finished: Path, arguments: tuple[str, ...], problem: str, remedy: str
) -> None:
    done = deploytool("diff", str(finished), str(finished), *arguments)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert problem in lines[0]
    assert remedy in lines[1]
    assert deploytool("diff", str(finished), "nowhere").returncode == 2
