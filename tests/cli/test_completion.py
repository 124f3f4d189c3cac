"""Shell completion of names and paths, and its time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from deploytool.cli import completion
from deploytool.loading import catalog
from tests.conftest import ROOT, modules_of


def children_cpu_seconds() -> float:
    """The processor time of ended child processes; unlike wall time, it does not depend on the load."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def completed(line: str, folder: Path) -> list[str]:
    """The completions of a command line."""
    words = line.split(" ")
    variables = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_DEPLOYTOOL_COMPLETE": "complete_bash"}
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    program = "from deploytool.__main__ import main; import sys; sys.argv = ['deploytool']; main()"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deploytool export mixnet_", {"mixnet_s", "mixnet_m"}),
        ("deploytool train mobilenet_v1_c", {"mobilenet_v1_cifar"}),
        ("deploytool show --cost squeezenet1_", {"squeezenet1_0", "squeezenet1_1"}),
        ("deploytool export x --target rtx40,o", {"rtx40,orin"}),
        ("deploytool doctor --target th", {"thor", "this"}),
        ("deploytool pull x --target gb", {"gb10"}),
        ("deploytool export x --rewrite f", {"folded", "fewest-nodes"}),
        ("deploytool show ru", {"run/"}),
        ("deploytool exp", {"export"}),
    ],
)
def test_names_are_completed(line: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    names = set(completed(line, tmp_path))
    assert expected <= names
    assert all(name.startswith(line.split(" ")[-1]) for name in names)


def test_all_models_are_completed_and_no_target_twice() -> None:
    assert completion.model("") == [model.name for model in catalog.models()]
    assert "rtx40,rtx40" not in [name for name, _ in completion.target("rtx40,rtx")]


def test_a_completion_is_fast_and_imports_no_heavy_library(tmp_path: Path) -> None:
    program = "from deploytool.cli import app, completion; completion.model('x'); completion.target('')"
    assert not {"torch", "onnx", "onnxruntime", "numpy", "PIL"} & modules_of(program)
    start = children_cpu_seconds()
    assert completed("deploytool export mixnet_", tmp_path)
    assert children_cpu_seconds() - start < 1.0
