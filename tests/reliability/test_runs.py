"""A sample of the campaign of kills and crowds."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT


def test_kills_and_crowds_of_real_exports_lose_nothing() -> None:
    command = [sys.executable, "-m", "tests.reliability.runs", "--kills", "10", "--together", "4", "--rounds", "2"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("one whole run each") == 2
