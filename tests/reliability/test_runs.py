"""Runs a sample of the campaign of killed and concurrent exports."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT


def test_killed_and_concurrent_exports_lose_nothing() -> None:
    command = [sys.executable, "-m", "tests.reliability.runs", "--kills", "10", "--together", "4", "--rounds", "2"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("one complete run each") == 2
