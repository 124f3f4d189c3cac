"""`deploytool` on a device, where typer, torch and the other libraries of the host are not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PYTHONPATH

Device = Callable[..., subprocess.CompletedProcess[str]]
_BARE = """
import sys
class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("typer", "rich", "torch", "onnx", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing)
"""


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """Runs `deploytool` in a process in which these libraries cannot be imported."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(_BARE)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        settings = {**os.environ, "PYTHONPATH": f"{tmp_path / 'bare'}{os.pathsep}{PYTHONPATH}"}
        command = [sys.executable, "-m", "deploytool", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)

    return call


def test_device_commands_work(device: Device, packed: Path) -> None:
    done = device("verify", str(packed), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["tier"] == "ORT CPU"
    assert device("verify", "nothing").returncode == 8
    assert "pardon" in device("--help").stdout


def test_other_commands_name_the_missing_extra(device: Device) -> None:
    done = device("export", "shufflenet_g3")
    assert done.returncode == 5
    assert "deploytool[cpu]" in done.stderr
