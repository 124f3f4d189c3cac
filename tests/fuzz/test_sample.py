"""Runs a few cases of each fuzz campaign, which must find no faults.

Each campaign runs in a new process, because it forks and a process that has run a model must not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fuzz import artifacts

SAMPLE = {"bundles": 24, "documents": 16, "graphs": 16, "models": 12, "pictures": 16}
NO_DIGESTS = """
from deploytool.host import files
def unverified(blocks, path, size, sha256):
    remaining = min(size, 1 << 24)  # a forged file may be huge and sparse
    while remaining > 0 and (block := blocks.read(min(remaining, 1 << 20))):
        remaining -= len(block)
        yield block
files.verified_blocks = unverified
from tests.fuzz import run
run.main()
"""


@pytest.fixture(scope="module")
def state(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state")
    artifacts.prepare(folder / "artifacts", packed.parents[1])
    return folder


def run(state: Path, start: list[str], counts: dict[str, int], seed: int) -> subprocess.CompletedProcess[str]:
    words = [word for kind in SAMPLE for word in (f"--{kind}", str(counts.get(kind, 0)))]
    command = [sys.executable, *start, *words, "--seed", str(seed), "--jobs", "1", "--quick", "--state", str(state)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)


def test_no_tampered_artifact_is_accepted_and_no_command_breaks(state: Path) -> None:
    process = run(state, ["-m", "tests.fuzz.run"], SAMPLE, 7)
    assert process.returncode == 0, process.stdout + process.stderr
    for kind, count in SAMPLE.items():
        assert f"{kind}: {count} cases, " in process.stdout
    assert process.stdout.count(": 0 faults; ") == len(SAMPLE)


def test_a_missing_check_is_detected(state: Path) -> None:
    """Without the check of digests, tampered bundles are accepted and the campaign must fail."""
    process = run(state, ["-c", NO_DIGESTS], {"bundles": 12}, 5)
    assert process.returncode == 1, process.stdout + process.stderr
    assert "ended with 0" in process.stdout
