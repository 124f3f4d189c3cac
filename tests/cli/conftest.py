"""Fixtures for the two command lines: `deploytool`, and `python -m deploytool.device`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploytool.cli import app
from deploytool.device import __main__ as device_main
from tests.cli import hostile
from tests.conftest import PYTHONPATH, Command

OutputOf = Callable[..., str]


@pytest.fixture
def device_cli(tmp_path: Path) -> Command:
    """The command line of the device in a fresh process and an empty folder."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploytool.device", *arguments]
        settings = {**os.environ, "PYTHONPATH": PYTHONPATH, **environment}
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)

    return call


@pytest.fixture(params=["host", "device"])
def cli(request: pytest.FixtureRequest, deploytool: Command, device_cli: Command) -> Command:
    """Both command lines, one after the other."""
    return deploytool if request.param == "host" else device_cli


@pytest.fixture
def command_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs `deploytool` in this process, which has the heavy libraries loaded, and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["deploytool", *arguments])
        capfd.readouterr()
        code = app.run()
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return call


@pytest.fixture
def output_of(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OutputOf:
    """Runs a command in this process and returns its output; fails if hostile text in it reaches the terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str | Path, device: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["deploytool", *map(str, arguments)])
        capfd.readouterr()
        code = _run_device_cli() if device else app.run()
        output = "".join(capfd.readouterr())
        assert output, arguments
        assert "Traceback" not in output
        assert code != 1, output
        assert not [*hostile.find_harm(output)], arguments
        return output

    return call


def _run_device_cli() -> int:
    try:
        return device_main._run(device_main._parser().parse_args())
    except SystemExit as error:  # raised by argparse
        return int(error.code or 0)
