"""The measurement of large models, tried with a small one and a lowered limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.sweep
def test_a_small_model_goes_all_the_way_with_the_memory_of_every_stage(tmp_path: Path) -> None:
    page = tmp_path / "large.md"
    command = ("-m", "tests.bench.large", "--layers", "3", "--width", "512", "--limit", "1000000", "--out", str(page))
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    rows = {line.split(" | ")[0].removeprefix("| ") for line in page.read_text().splitlines()}
    assert rows >= {"export", "push", "pull", "verify", "load", "golden", "fp16", "validate", "pack"}
