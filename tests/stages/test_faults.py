"""Tests of the faults stage."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from deploytool import serde
from deploytool.data import golden
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results import report
from deploytool.results.faults import FaultsResult
from deploytool.spec import Job
from deploytool.stages import faults
from tests.conftest import QUICK, TINY, artifacts
from tests.faults.test_run import insensitive_sample


def test_the_report_contains_the_result_of_the_stage(finished: Path) -> None:
    result = serde.decode(FaultsResult, json.loads((finished / "faults" / "faults.json").read_text(encoding="utf-8")))
    assert result == report.read(finished / "validate" / "report.json").faults
    assert len(result.families) > 10
    assert result.missed == ()
    assert {path.name for path in (finished / "faults").iterdir()} == {"faults.json", "receipt.json"}
    assert PIPELINE.index("faults") < PIPELINE.index("validate")


def test_the_number_of_faults_is_that_of_the_options(finished: Path, tmp_path: Path) -> None:
    one = faults.make(Job(TINY, QUICK), tmp_path / "one.json", artifacts(finished))
    three = faults.make(Job(TINY, dataclasses.replace(QUICK, faults=3)), tmp_path / "three.json", artifacts(finished))
    assert int(str(three["planted"])) > 2 * int(str(one["planted"])) > 20


def test_cases_that_detect_missed_faults_are_written_beside_the_result(run_copy: Path, tmp_path: Path) -> None:
    insensitive_sample(run_copy, run_copy / "golden" / "golden.npz")
    notes = faults.make(Job(TINY, dataclasses.replace(QUICK, faults=3)), tmp_path / "faults.json", artifacts(run_copy))
    assert int(str(notes["missed"])) > 0
    pixels, inputs = golden.read_cases(tmp_path / "cases.npz")
    assert len(pixels) == len(inputs["input"]) > 0
