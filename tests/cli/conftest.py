"""The two doors: `deploytool`, and `python -m deploytool.device`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command


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
