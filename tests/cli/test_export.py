"""`deploytool export` in fresh processes, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import onnx
import pytest

from deploytool.errors import DeployError
from deploytool.loading import catalog
from deploytool.results.report import SCHEMA
from deploytool.spec import GateOutcome, SpeedVerdict
from tests.conftest import Command, modules_of

MODEL = "mobilenet_v1_cifar"
FILES = {
    "load/weights.safetensors",
    "golden/golden.npz",
    "torchscript/model.pt",
    "export/model.onnx",
    "simplify/model.onnx",
    "rewrite/model.onnx",
    "fp16/model.onnx",
    "known_issues/probes.npz",
    "build/model.plan",
    "faults/faults.json",
    "validate/report.json",
}
QUICK = ("--images", "4", "--seconds", "0.1")


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.name != "receipt.json"}


def test_an_export_makes_every_file_and_a_second_one_reuses_them(deploytool: Command, tmp_path: Path) -> None:
    first = deploytool("export", MODEL, "--trt", *QUICK)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    run = tmp_path / "artifacts" / MODEL
    assert files(run) == FILES | {"report.html"}
    for stage in ("export", "simplify", "rewrite", "fp16"):
        onnx.checker.check_model(onnx.load(run / stage / "model.onnx"), full_check=True)
    passed = {line.split("/")[0].strip() for line in first.stdout.splitlines() if "measured: pass" in line}
    assert {name.split()[0] for name in passed} == {
        "golden",
        "torchscript",
        "export",
        "simplify",
        "rewrite",
        "fp16",
        "as",
        "in",
    }
    assert "built, not run" in first.stdout
    assert "rtx40" in first.stdout
    assert "Verdict: pass for all that ran here." in first.stdout

    again = deploytool("export", MODEL, "--trt", *QUICK, "--json")
    assert again.returncode == 0
    document = json.loads(again.stdout)
    assert {artifact["file"] for artifact in document["artifacts"]} == FILES
    assert not any(artifact["fresh"] for artifact in document["artifacts"])
    assert document["error"] is None
    assert document["report"]["schema"] == SCHEMA
    assert document["report"]["model"] == MODEL
    assert "kept" in again.stderr
    assert_that_the_tables_match(first.stdout, document["report"])

    program = f"""
import contextlib, io, re
from pathlib import Path
from deploytool.cli.app import app
with contextlib.redirect_stdout(io.StringIO()):
    app({["export", MODEL, "--trt", *QUICK, "--out", str(run)]!r}, standalone_mode=False)
peak_mib = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
assert peak_mib < 100, peak_mib
"""
    assert not {"torch", "onnx", "onnxruntime", "tensorrt_rtx"} & modules_of(program)

    shown = deploytool("show", f"artifacts/{MODEL}")
    assert shown.returncode == 0
    assert first.stdout[first.stdout.index(f"{MODEL}: largest error") :] in shown.stdout


def assert_that_the_tables_match(stdout: str, report: dict[str, Any]) -> None:
    """Every figure in the printed tables is that of the report."""
    errors, speeds = stdout.partition("Speed at batch")[::2]
    rows = [re.split(r"  +", line.strip()) for line in errors.splitlines() if "measured: " in line]
    checked = [comparison for comparison in report["comparisons"] if comparison["checks"]]
    assert len(rows) == len(checked)
    for row, comparison in zip(rows, checked, strict=True):
        previous, eager = comparison["checks"][0]["parity"], comparison["checks"][-1]["parity"]
        figures = [f"{previous['max_error']:.1e}"] if len(comparison["checks"]) > 1 else ["–"]
        figures += [
            f"{eager['max_error']:.1e}",
            f"{eager['max_error'] / comparison['noise']:.1f}×",
            f"{eager['top1']:.0%}",
        ]
        assert row[-5:-1] == figures
        assert row[-1] == f"measured: {'FAIL' if any(check['broken'] for check in comparison['checks']) else 'pass'}"
    timed = {speed["stage"]: speed for speed in report["speeds"] if speed["ratio"]}
    assert len(timed) >= 4
    for stage, speed in timed.items():
        (line,) = [line for line in speeds.splitlines() if line.startswith(f" {stage}/")]
        assert all(figure in line for figure in (f"{speed['latency_ms']:.2f} ms", f"{speed['baseline_ms']:.2f} ms"))
        ratio = f"{speed['ratio']:.2f}× ({speed['low']:.2f}–{speed['high']:.2f})"
        assert (ratio in line) is (speed["verdict"] in (SpeedVerdict.FASTER, SpeedVerdict.SLOWER))
    for line in report["remarks"]:
        assert line in stdout


def test_without_trt_there_is_no_engine(deploytool: Command, tmp_path: Path) -> None:
    done = deploytool("export", MODEL, *QUICK, "--out", "here", "--require")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "here") == FILES - {"build/model.plan"} | {"report.html"}
    assert "Verdict: pass." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "problem", "remedy"),
    [
        (("shuflenet_g3",), 2, "there is no model 'shuflenet_g3'", "did you mean shufflenet_g3?"),
        ((MODEL, "--batch", "0"), 2, "--batch 0 is not a valid range", "1:8:32"),
        ((MODEL, "--batch", "8:4:2"), 2, "--batch 8:4:2 is not a valid range", "SMALLEST:TYPICAL:LARGEST"),
        ((MODEL, "--batch", "two"), 2, "--batch two is not a size", "write --batch 8"),
        ((MODEL, "--target", "rtx99"), 2, "there is no target 'rtx99'", "did you mean rtx"),
        ((MODEL, "--target", "orin,rtx40", "--require"), 6, "no engine for orin", "drop --require"),
        ((MODEL, "--keep-fp32", "auto,stem"), 2, "--keep-fp32 auto,stem: auto and names are", "auto, or the names"),
        ((MODEL, "--out", "/proc/here"), 2, "cannot write to /proc/here", "--out"),
    ],
)
def test_bad_input_is_reported_as_problem_and_remedy(
    deploytool: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, problem: str, remedy: str
) -> None:
    done = deploytool("export", *arguments)
    assert done.returncode == code
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"deploytool: {problem}")
    assert remedy in lines[1]
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    "arguments", [(MODEL, "--opset", "7"), (MODEL, "--exporter", "magic"), ("--trt",), (MODEL, "-x")]
)
def test_an_invalid_option_prints_the_usage_and_no_traceback(deploytool: Command, arguments: tuple[str, ...]) -> None:
    done = deploytool("export", *arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_printed_as_json_with_json(deploytool: Command) -> None:
    done = deploytool("export", "nothing", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert (error["problem"], error["exit_code"]) == ("there is no model 'nothing'", 2)
    assert "`deploytool models` lists all" in error["remedy"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_refused(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    done = deploytool("export", MODEL, "--out", "locked/run")
    assert done.returncode == 2
    assert "cannot write to locked/run: Permission denied" in done.stderr


def test_a_folder_with_foreign_files_is_refused_and_unchanged(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "build").mkdir(parents=True)
    (tmp_path / "mine" / "build" / "thesis.pdf").write_text("mine")
    done = deploytool("export", MODEL, "--trt", "--out", "mine")
    assert done.returncode == 2
    assert "mine/build was not made by deploytool" in done.stderr
    assert files(tmp_path / "mine") == {"build/thesis.pdf"}


def test_an_unmeasured_minimum_speedup_fails(deploytool: Command) -> None:
    done = deploytool("export", MODEL, "--trt", *QUICK, "--min-speedup", "0.01")
    assert done.returncode == 6
    assert "the speed of build/model.plan: built, not run" in done.stderr


def test_a_failed_run_is_one_json_document(deploytool: Command) -> None:
    done = deploytool("export", MODEL, *QUICK, "--min-speedup", "1000", "--json")
    assert done.returncode == 4
    document = json.loads(done.stdout)
    assert document["error"]["exit_code"] == 4
    assert document["report"]["gate"]["outcome"] == GateOutcome.MISSED


def test_a_missed_minimum_speedup_fails(deploytool: Command) -> None:
    done = deploytool("export", MODEL, *QUICK, "--min-speedup", "1000")
    assert done.returncode == 4
    assert "1000×" in done.stderr


def test_every_failure_has_its_own_exit_code() -> None:
    codes = [kind.exit_code for kind in DeployError.__subclasses__()]
    assert sorted(codes) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_the_default_model_of_the_readme_exists() -> None:
    assert catalog.find("shufflenet_g3").parameters == 1_865_728
