"""`deploytool diff`: tables and document say the same, and a budget decides the exit code."""

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
    """A run whose FP16 graph errs three times as much, and is half as fast for sure."""
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
        dataclasses.replace(each, ratio=0.01, low=0.009, high=0.011) if each.stage == "fp16" else each
        for each in written.speeds
    )
    report.write(path, dataclasses.replace(written, comparisons=tuple(comparisons), speeds=speeds))
    return run_copy


def test_a_run_and_itself(deploytool: Command, finished: Path) -> None:
    budgets = [part for each in ("parity>2x", "p50>+5%", "size>+10%", "top1<-0.5%") for part in ("--fail-if", each)]
    done = deploytool("diff", str(finished), str(finished), *budgets)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Verdict: within budget (4 of 4); the same."
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""


def test_what_is_worse_is_said_and_fails_only_a_budget(deploytool: Command, finished: Path, worse: Path) -> None:
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


def test_the_document_says_what_the_table_says(deploytool: Command, finished: Path, worse: Path) -> None:
    done = deploytool("diff", str(finished), str(worse), "--fail-if", "parity>2x", "--fail-if", "size>+1%", "--json")
    assert done.returncode == 10
    document = json.loads(done.stdout)
    assert document["error"]["exit_code"] == 10
    assert [each["outcome"] for each in document["result"]["budgets"]] == [Outcome.OVER, Outcome.WITHIN]
    shown = deploytool("diff", str(finished), str(worse)).stdout
    for shift in document["result"]["difference"]["figures"]:
        assert shift["subject"].split(" ")[0] in shown
        assert shift["factor"] is not None
    assert {shift["quantity"] for shift in document["result"]["difference"]["figures"]} == {
        "parity",
        "noise",
        "speedup",
    }


def test_what_cannot_be_judged_is_not_verified(deploytool: Command, finished: Path) -> None:
    done = deploytool("diff", str(finished), str(finished), "--fail-if", "p99>+5%")
    assert done.returncode == 6
    assert "no measurement of p99" in done.stderr
    assert done.stdout.splitlines()[-1] == "Verdict: not verified: p99>+5% cannot be judged; the same."


def test_a_bundle_and_what_a_device_brought_home(deploytool: Command, packed: Path, tmp_path: Path) -> None:
    home = deploytool("bench", str(packed), "--seconds", "0.1", "--json")
    (tmp_path / "home.json").write_text(home.stdout)
    asked = ["--fail-if", "parity>1e-3", "--fail-if", "p90>10s", "--fail-if", "top1<100%"]
    done = deploytool("diff", str(packed), "home.json", *asked, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "Verdict: within budget (3 of 3); 0 facts and 0 figures differ," in done.stdout
    assert deploytool("diff", str(packed), "home.json", "--fail-if", "parity>1e-12").returncode == 10
    again = deploytool("diff", "home.json", "home.json", "--fail-if", "p50>+5%", "--fail-if", "parity>1x")
    assert again.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "problem", "remedy"),
    [
        (("--fail-if", "pairty>2x"), "unknown figure 'pairty'", "known: parity, noise,"),
        (("--fail-if", "p99=5"), "is not a budget", "parity>2x"),
        (("--fail-if", "parity@hlave>2x"), "unknown subject 'hlave'", "fp16/model.onnx"),
    ],
)
def test_wrong_use_gets_one_clear_line(
    deploytool: Command, finished: Path, arguments: tuple[str, ...], problem: str, remedy: str
) -> None:
    done = deploytool("diff", str(finished), str(finished), *arguments)
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert len(said) == 2
    assert problem in said[0]
    assert remedy in said[1]
    assert deploytool("diff", str(finished), "nowhere").returncode == 2
