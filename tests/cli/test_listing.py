"""`models`, `targets`, `show` and `--help`: their content, and that they import no heavy library."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest

from deploytool.cli import app, listing
from deploytool.loading import catalog
from deploytool.targets import TARGETS
from tests.conftest import Command, modules_of

HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "onnxsim", "tensorrt_rtx", "safetensors"}


def test_models_lists_inputs_classes_parameters_and_macs(deploytool: Command) -> None:
    done = deploytool("models")
    assert done.returncode == 0
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if "×" in line}
    assert rows["shufflenet_g3"] == ["3×224×224", "1000", "1,865,728", "137,460,672"]
    assert rows["mobilenet_v1_cifar"] == ["3×32×32", "10", "3,217,226", "46,354,432"]
    assert set(rows) == {model.name for model in catalog.models()}


def test_models_as_json_has_the_same_numbers(deploytool: Command) -> None:
    listed = {model["name"]: model for model in json.loads(deploytool("models", "--json").stdout)["models"]}
    for model in catalog.models():
        assert (listed[model.name]["parameters"], listed[model.name]["macs"]) == (model.parameters, model.macs)


def test_targets_lists_every_target_with_verdict_and_reason(deploytool: Command) -> None:
    decisions = {
        decision["target"]: decision for decision in json.loads(deploytool("targets", "--json").stdout)["targets"]
    }
    assert set(decisions) == {*TARGETS, "this"}
    assert all(decision["verdict"] and decision["why"] for decision in decisions.values())
    assert all(name in deploytool("targets").stdout for name in decisions)


@pytest.mark.parametrize("arguments", ["--help", "models", "targets", "export --help"])
def test_listing_commands_import_no_heavy_library(arguments: str) -> None:
    program = f"""
import sys
from deploytool.cli.app import app
sys.stdout, stdout = open("/dev/null", "w"), sys.stdout
app({arguments.split()!r}, standalone_mode=False)
sys.stdout.close()
sys.stdout = stdout
"""
    assert not HEAVY & modules_of(program)


def test_the_version_is_that_of_the_package(deploytool: Command) -> None:
    done = deploytool("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"deploytool {metadata.version('deploytool')}\n"


def test_help_lists_the_exit_codes(deploytool: Command) -> None:
    for arguments in ((), ("export",)):
        text = " ".join(deploytool(*arguments, "--help").stdout.split())
        assert all(f" {code} " in text for code in (0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130))


def test_show_marks_a_changed_artifact(deploytool: Command, run_copy: Path) -> None:
    assert "CHANGED" not in deploytool("show", str(run_copy)).stdout
    (run_copy / "fp16" / "model.onnx").write_bytes(b"other")
    assert deploytool("show", str(run_copy)).stdout.count("CHANGED since it was made") == 1
    assert "CHANGED since it was made" in deploytool("show", str(run_copy / "fp16" / "model.onnx")).stdout


def test_show_of_one_artifact_prints_its_origin(deploytool: Command, run_copy: Path) -> None:
    output = deploytool("show", str(run_copy / "build" / "model.plan")).stdout
    assert "unchanged" in output
    assert "fp16" in output
    assert "tensorrt_rtx" in output
    receipt = json.loads(deploytool("show", str(run_copy / "fp16" / "model.onnx"), "--json").stdout)["receipt"]
    assert receipt["made_by"] == "fp16"


def test_show_refuses_a_path_without_a_run(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for path, problem in ((".", "has no run"), ("notes.txt", "is not an artifact of a run"), ("nowhere", "has no run")):
        done = deploytool("show", path)
        assert done.returncode == 2
        assert problem in done.stderr
        assert len(done.stderr.splitlines()) == 2


def test_show_of_an_invalid_report(deploytool: Command, run_copy: Path) -> None:
    (run_copy / "validate" / "report.json").write_text("{}")
    done = deploytool("show", str(run_copy))
    assert done.returncode == 2
    assert "is not a report of this schema version" in done.stderr


def test_two_packages_of_onnx_runtime_are_refused(deploytool: Command, tmp_path: Path) -> None:
    info = tmp_path / "site" / "onnxruntime_gpu-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.0\n")
    root = Path(__file__).parents[2]
    done = deploytool("models", PYTHONPATH=f"{root}:{tmp_path / 'site'}")
    assert done.returncode == 5
    assert "onnxruntime and onnxruntime-gpu are both installed" in done.stderr
    assert "pip uninstall" in done.stderr


def test_help_lists_every_command_in_one_line_under_a_heading(deploytool: Command) -> None:
    lines = deploytool("--help", COLUMNS="80").stdout.splitlines()
    for heading, commands in listing.COMMANDS.items():
        start = lines.index(f"{heading}:") + 1
        shown = [" ".join(line.split()) for line in lines[start : start + len(commands)]]
        assert shown == [f"{name} {summary}" for name, summary in commands.items()]
    assert {name for commands in listing.COMMANDS.values() for name in commands} == set(app.COMMAND_MODULES)


def test_every_option_of_export_is_under_a_heading(deploytool: Command) -> None:
    text = deploytool("export", "--help").stdout
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert len(headings) > 5
    assert "Options" not in headings
    assert headings[-1] == listing.SHARED
