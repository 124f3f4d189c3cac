"""A worker module runs in a child process that imports nothing from the working folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploytool.host import worker_main, workers
from tests.conftest import ROOT

MODULES = (
    "deploytool.rewrites.simplify_worker",
    "deploytool.precision.session_worker",
    "deploytool.report.page_worker",
    "deploytool.device.worker",
    "deploytool.doctor.provider_worker",
    "deploytool.doctor.tensorrt_worker",
)
NAMES = ("json", "numpy", "onnx", "onnxruntime", "pynvml", "deploytool", "pathlib", "ctypes", "importlib")


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder full of modules that leave a file where they are imported."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"open('ran_{name}', 'w').close()\nraise ImportError('foreign module')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("path", [None, "", os.pathsep])
def test_no_worker_imports_from_the_working_folder(
    working_folder: Path, module: str, path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    done = subprocess.run(workers.command(module), input=b"[]\n", capture_output=True, check=False)
    assert b"foreign module" not in done.stderr
    assert b"No module named" not in done.stderr
    assert not list(working_folder.glob("ran_*"))


def test_a_worker_gets_its_arguments_and_its_task() -> None:
    command = workers.command("tests.host.echo_worker", "a", "b")
    assert json.loads(subprocess.run(command, input=b"[1]\n", capture_output=True, check=True).stdout) == [
        ["a", "b"],
        [1],
        str(ROOT),
    ]


def test_the_modules_of_the_host_package_are_not_importable_by_their_short_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(worker_main.__file__).parent), "relative", "", str(ROOT / "docs")])
    assert worker_main._import_path() == [str(ROOT), str(ROOT / "docs")]
