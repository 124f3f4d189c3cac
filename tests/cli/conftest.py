"""The two doors: `deploytool`, and `python -m deploytool.device`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploytool.cli import app
from deploytool.device import __main__ as back
from tests.cli import hostile
from tests.conftest import ROOT, Command

Said = Callable[..., str]


@pytest.fixture
def back_door(tmp_path: Path) -> Command:
    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploytool.device", *arguments]
        settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)

    return call


@pytest.fixture(params=["front door", "back door"])
def door(request: pytest.FixtureRequest, deploytool: Command, back_door: Command) -> Command:
    return deploytool if request.param == "front door" else back_door


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Said:
    """Calls a command in this process and hands on all it wrote, which is harmless or the test fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str | Path, device: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["deploytool", *map(str, arguments)])
        capfd.readouterr()
        code = _of_the_device() if device else app.run()
        written = "".join(capfd.readouterr())
        assert written, arguments
        assert "Traceback" not in written
        assert code != 1, written
        assert not [*hostile.harm(written)], arguments
        return written

    return call


def _of_the_device() -> int:
    try:
        return back._run(back._parser().parse_args())
    except SystemExit as ended:  # of the standard library's parser
        return int(ended.code or 0)
