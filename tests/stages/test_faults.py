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


def test_every_run_is_proved_and_its_report_says_so(finished: Path) -> None:
    proof = serde.decode(FaultsResult, json.loads((finished / "faults" / "faults.json").read_text(encoding="utf-8")))
    assert proof == report.read(finished / "validate" / "report.json").faults
    assert len(proof.families) > 10
    assert proof.missed == ()
    assert {path.name for path in (finished / "faults").iterdir()} == {"faults.json", "receipt.json"}
    assert PIPELINE.index("faults") < PIPELINE.index("validate")


def test_more_faults_are_planted_where_they_are_asked_for(finished: Path, tmp_path: Path) -> None:
    one = faults.make(Job(TINY, QUICK), tmp_path / "one.json", artifacts(finished))
    three = faults.make(Job(TINY, dataclasses.replace(QUICK, faults=3)), tmp_path / "three.json", artifacts(finished))
    assert int(str(three["planted"])) > 2 * int(str(one["planted"])) > 20


def test_what_would_have_helped_lies_beside_the_proof(run_copy: Path, tmp_path: Path) -> None:
    insensitive_sample(run_copy, run_copy / "golden" / "golden.npz")
    notes = faults.make(Job(TINY, dataclasses.replace(QUICK, faults=3)), tmp_path / "faults.json", artifacts(run_copy))
    assert int(str(notes["missed"])) > 0
    pixels, inputs = golden.read_cases(tmp_path / "cases.npz")
    assert len(pixels) == len(inputs["input"]) > 0
