"""`deploytool faults` on an intact run and on one whose golden cases catch too little."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from deploytool.backends import eager
from deploytool.data import golden, images
from deploytool.parity.replay import replay
from deploytool.results.faults import CASES
from tests.conftest import TINY, Command


def test_faults_of_a_run_are_caught(run_copy: Path, deploytool: Command) -> None:
    done = deploytool("faults", str(run_copy), "--faults", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Faults: " in done.stdout
    assert "colours swapped" in done.stdout
    assert "mask inverted" not in done.stdout, "the model has no attention"
    document = json.loads(deploytool("faults", str(run_copy), "--faults", "2", "--json").stdout)
    assert document["error"] is None
    assert (
        sum(power["caught"] for family in document["faults"]["families"] for power in family["by_check"].values()) > 30
    )
    assert not (run_copy / CASES).exists()


@pytest.fixture
def grey_run(run_copy: Path) -> Path:
    """A run whose golden images are all grey, with matching outputs."""
    path = run_copy / "golden" / "golden.npz"
    sample = golden.read(path)
    pixels = np.full_like(sample.pixels, 128)
    inputs = {"input": images.normalise(pixels, TINY.preprocessing)}
    weights = run_copy / "load" / "weights.safetensors"
    with eager.start(weights) as single, eager.start(weights, double=True) as double:
        outputs, reference = replay(single, inputs), replay(double, inputs)
    golden.write(path, dataclasses.replace(sample, pixels=pixels, inputs=inputs, outputs=outputs, reference=reference))
    return run_copy


def test_golden_cases_that_miss_faults_fail_and_better_cases_are_written(grey_run: Path, deploytool: Command) -> None:
    done = deploytool("faults", str(grey_run), "--faults", "3")
    assert done.returncode == 6
    assert "the golden cases miss" in done.stderr
    assert f"--cases {grey_run / CASES}" in done.stderr
    pixels, _ = golden.read_cases(grey_run / CASES)
    assert len(pixels) >= 1


@pytest.mark.parametrize("name", ["nothing", "report"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, deploytool: Command, name: str) -> None:
    (tmp_path / name).mkdir()
    done = deploytool("faults", str(tmp_path / name))
    assert done.returncode == 2
    assert "has no run with graphs to check" in done.stderr
