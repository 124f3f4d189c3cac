"""The GitHub Action: its steps, run one after the other as GitHub runs them, but without GitHub."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / ".github" / "actions" / "deploytool" / "action.yml").read_text())
STEPS = ACTION["runs"]["steps"]
EXPRESSION = re.compile(r"\$\{\{ *([\w.]+) *\}\}")
MODEL = "mobilenet_v1_cifar"


@dataclass
class Job:
    """What one job of GitHub holds: its inputs, the outputs of steps, the summary, and which steps it ran."""

    folder: Path
    inputs: Mapping[str, str]
    outputs: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    programs: Path = ROOT / ".venv" / "bin"

    @property
    def summary(self) -> str:
        return (self.folder / "summary.md").read_text()

    def value(self, name: str) -> str:
        """The value of `inputs.NAME` or `steps.ID.outputs.NAME`, empty where there is none."""
        kind, _, rest = name.partition(".")
        return self.inputs.get(rest, "") if kind == "inputs" else self.outputs.get(name, "")

    def is_wanted(self, condition: str | None) -> bool:
        """Whether a condition of the form `NAME == 'VALUE' && …` holds."""
        for part in (condition or "").split("&&"):
            if part.strip():
                name, operator, value = re.fullmatch(r"([\w.]+) (==|!=) '(.*)'", part.strip()).groups()  # type: ignore[union-attr]
                if (self.value(name) == value) != (operator == "=="):
                    return False
        return True

    def run(self) -> int:
        """Runs the steps until one fails, and returns its exit code; steps of other actions are left out."""
        for step in STEPS:
            if "run" in step and self.is_wanted(step.get("if")):
                self.ran.append(step["name"])
                if code := self._step(step):
                    return code
        return 0

    def _step(self, step: Mapping[str, str | Mapping[str, str]]) -> int:
        given = step.get("env", {})
        assert isinstance(given, Mapping)
        outputs, temporary = self.folder / f"output-{len(self.ran)}", self.folder / "temporary"
        temporary.mkdir(exist_ok=True)
        outputs.write_text("")
        environment = {
            **os.environ,
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
            "RUNNER_TEMP": str(temporary),
            **{name: EXPRESSION.sub(lambda found: self.value(found[1]), text) for name, text in given.items()},
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", str(step["run"])]
        done = subprocess.run(command, cwd=self.folder, env=environment, check=False)
        for line in outputs.read_text().splitlines():
            name, _, value = line.partition("=")
            self.outputs[f"steps.{step.get('id')}.outputs.{name}"] = value
        return done.returncode


def job(folder: Path, **inputs: str) -> Job:
    """A job in a folder, with the defaults of the action's inputs; deploytool is installed already."""
    folder.mkdir(exist_ok=True)
    defaults = {name: str(value.get("default", "")) for name, value in ACTION["inputs"].items()}
    return Job(folder, {**defaults, "package": "", "model": MODEL, "options": "--quick\n--to onnx\n", **inputs})


FAKE = """#!/bin/bash
printf '%s\\0' "${0##*/}" "$@" >> "$CALLS"; printf '\\n' >> "$CALLS"
[[ ${0##*/} != deploytool || $2 == --help || -n $FAILS ]] || { [[ $1 != export ]] || touch "$GIVEN_OUT.xml"; }
exit "${FAILS:-0}"
"""  # stands for deploytool and for Python: notes how it was called, and as export writes a report unless it FAILS


def calls(folder: Path, monkeypatch: pytest.MonkeyPatch, fails: int = 0, **inputs: str) -> tuple[int, list[list[str]]]:
    """The exit code of a job with stand-ins for programs, and how they were called."""
    made = job(folder / "job", **inputs)
    made.programs = folder / "programs"
    made.programs.mkdir()
    for name in ("deploytool", "python"):
        (made.programs / name).write_text(FAKE)
        (made.programs / name).chmod(0o755)
    monkeypatch.setenv("CALLS", str(folder / "calls"))
    monkeypatch.setenv("FAILS", str(fails or ""))
    monkeypatch.setenv("GIVEN_OUT", made.inputs["out"])
    code = made.run()
    assert not [path.name for path in made.folder.iterdir() if path.name.startswith("touched")]
    return code, [line.split("\0")[:-1] for line in (folder / "calls").read_text().split("\n")[:-1]]


def test_options_keep_their_spaces_and_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["--data my photos", '--labels "my labels.csv"', "--classes=the names.txt", "", "  --quick  "]
    lines += ["--arg name='$(touch touched)'", "--size H=1:2:3", "--metric `touch touched`"]
    code, (export, *_) = calls(tmp_path, monkeypatch, model="$(touch touched).py:make", options="\r\n".join(lines))
    assert code == 0
    assert export == [
        *("deploytool", "export", "--data", "my photos", "--labels", "my labels.csv", "--classes", "the names.txt"),
        *("--quick", "--arg", "name='$(touch touched)'", "--size", "H=1:2:3", "--metric", "`touch touched`"),
        *("--out", "artifacts/run", "--junit", "artifacts/run.xml", "--", "$(touch touched).py:make"),
    ]


def test_an_export_that_makes_nothing_ends_with_its_code_and_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, made = calls(tmp_path, monkeypatch, fails=2)
    assert (code, [call[1] for call in made]) == (2, ["export"])
    assert (tmp_path / "job" / "summary.md").read_text() == "The export ended without a report: see its log.\n"


def test_an_export_without_a_report_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls(tmp_path, monkeypatch, options="--help")[0] == 1


def test_packages_and_budgets_are_one_on_each_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, made = calls(
        tmp_path,
        monkeypatch,
        package=" \n a[cpu]\r\n  b == 1 \n",
        baseline="my base",
        budgets=" parity>2x\r\n\nsize>+5%",
    )
    assert code == 0
    assert made[0] == ["python", "-m", "pip", "install", "--quiet", "a[cpu]", "b == 1"]
    assert made[2] == [
        "deploytool",
        "diff",
        "--fail-if=parity>2x",
        "--fail-if=size>+5%",
        "--",
        "my base",
        "artifacts/run",
    ]


def test_a_blank_list_of_packages_installs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls(tmp_path, monkeypatch, package=" \n\t\n")[1][0][1] == "export"


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that passed; its run is the baseline of others."""
    made = job(tmp_path_factory.mktemp("passed"), out="run of today")
    assert made.run() == 0
    return made


def test_no_input_is_put_into_a_script() -> None:
    scripts = [step["run"] for step in STEPS if "run" in step]
    assert scripts
    assert not any("${{" in script for script in scripts), "an input could then run code"


@pytest.mark.integration
def test_a_job_that_passes(passed: Job) -> None:
    assert passed.ran == ["Name the cache", "Export", "Write the summary", "Verdict"]
    assert passed.summary.startswith(f"## {MODEL.replace('_', chr(92) + '_')}: pass for all that ran here\n")
    assert "| load/golden.npz" not in passed.summary
    assert "| export/model.onnx |" in passed.summary
    assert passed.outputs["steps.export.outputs.code"] == "0"
    assert len(passed.outputs["steps.export.outputs.receipts"]) == 64
    assert passed.outputs["steps.cache.outputs.key"].startswith("deploytool-Linux-")
    assert (passed.folder / "run of today.xml").read_text().startswith("<?xml")


@pytest.mark.integration
def test_a_job_over_budget_fails(passed: Job) -> None:
    again = job(passed.folder, out="run of today", baseline="run of today", budgets="parity>2x\nsize>1B\n")
    assert again.run() == 10
    assert again.outputs["steps.export.outputs.receipts"] == passed.outputs["steps.export.outputs.receipts"]
    assert again.ran[-1] == "Verdict"
    assert "    Verdict: FAIL, over budget: size>1B; the same." in again.summary
    within = job(passed.folder, out="run of today", baseline="run of today", budgets="size>+5%")
    assert within.run() == 0


@pytest.mark.integration
def test_an_export_that_fails_is_not_hidden_by_an_earlier_run(passed: Job) -> None:
    """The cache brings the run of an earlier job back, which then stands where this one has made nothing."""
    failing = job(passed.folder, out="run of today", options="--weights no such file.pth", baseline="run of today")
    (passed.folder / "summary.md").unlink()
    assert failing.run() == 2
    assert failing.summary == "The export ended without a report: see its log.\n"
    assert "Fetch the baseline and compare" not in failing.ran


@pytest.mark.integration
def test_a_baseline_that_cannot_be_fetched_fails(passed: Job) -> None:
    gone = job(passed.folder, out="run of today", baseline="oci-archive:missing.tar", budgets="size>+5%")
    assert gone.run() == 2
    assert "Compared with" not in gone.summary
