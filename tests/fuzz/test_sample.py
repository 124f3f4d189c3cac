"""A few cases of each campaign: what `make fuzz` does ten thousand times works, and finds nothing.

Each is a process of its own, which forks: one that has run a model, as this one may have, must not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fuzz import artifacts

SAMPLE = {"bundles": 24, "documents": 16, "graphs": 16, "pictures": 16}
NO_DIGESTS = """
from deploytool.host import files
def held(blocks, path, size, sha256):
    left = min(size, 1 << 24)  # a forged file may be a huge hole
    while left > 0 and (block := blocks.read(min(left, 1 << 20))):
        left -= len(block)
        yield block
files.verified_blocks = held
from tests.fuzz import run
run.main()
"""


@pytest.fixture(scope="module")
def state(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("state")
    artifacts.prepare(made / "ground", packed.parents[1])
    return made


def run(state: Path, start: list[str], counts: dict[str, int], seed: int) -> subprocess.CompletedProcess[str]:
    words = [word for kind in SAMPLE for word in (f"--{kind}", str(counts.get(kind, 0)))]
    command = [sys.executable, *start, *words, "--seed", str(seed), "--jobs", "1", "--quick", "--state", str(state)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)


def test_nothing_is_let_through_and_nothing_breaks(state: Path) -> None:
    done = run(state, ["-m", "tests.fuzz.run"], SAMPLE, 7)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind, count in SAMPLE.items():
        assert f"{kind}: {count} cases, " in done.stdout
    assert done.stdout.count(": 0 faults; ") == len(SAMPLE)


def test_a_guard_that_is_gone_is_noticed(state: Path) -> None:
    """The campaign itself can fail: without digests, bundles are let through."""
    done = run(state, ["-c", NO_DIGESTS], {"bundles": 12}, 5)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ended with 0" in done.stdout
