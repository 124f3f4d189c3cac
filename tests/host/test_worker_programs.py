"""Children import nothing from the folder in which one happens to stand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploytool.host import worker_programs

NAMES = ("json", "numpy", "onnx", "onnxruntime", "pynvml", "deploytool", "pathlib", "ctypes")


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder full of modules that leave a trace where they are imported."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"open('ran_{name}', 'w').close()\nraise ImportError('a stranger')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "program",
    [worker_programs.SIMPLIFY, worker_programs.OPEN, worker_programs.DRAW, worker_programs.WORK],
    ids=lambda each: each[-30:],
)
@pytest.mark.parametrize("path", [None, "", os.pathsep])
def test_no_program_imports_from_the_working_folder(
    strange: Path, program: str, path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    done = subprocess.run(worker_programs.command(program), input=b"[]\n", capture_output=True, check=False)
    assert b"a stranger" not in done.stderr
    assert not list(strange.glob("ran_*"))
