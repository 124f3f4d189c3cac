from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from deploytool import golden, plain, report, targets
from deploytool.proof import Proof
from deploytool.spec import Job
from deploytool.stages import prove
from tests.conftest import QUICK, TINY, shelf
from tests.test_proving import blind


def test_every_run_is_proved_and_its_report_says_so(finished: Path) -> None:
    proof = plain.decode(Proof, json.loads((finished / "prove" / "proof.json").read_text(encoding="utf-8")))
    assert proof == report.read(finished / "validate" / "report.json").proof
    assert len(proof.families) > 10
    assert proof.missed == ()
    assert {path.name for path in (finished / "prove").iterdir()} == {"proof.json", "receipt.json"}
    assert targets.ROAD.index("prove") < targets.ROAD.index("validate")


def test_more_faults_are_planted_where_they_are_asked_for(finished: Path, tmp_path: Path) -> None:
    one = prove.make(Job(TINY, QUICK), tmp_path / "one.json", shelf(finished))
    three = prove.make(Job(TINY, dataclasses.replace(QUICK, faults=3)), tmp_path / "three.json", shelf(finished))
    assert int(str(three["planted"])) > 2 * int(str(one["planted"])) > 20


def test_what_would_have_helped_lies_beside_the_proof(run_copy: Path, tmp_path: Path) -> None:
    blind(run_copy, run_copy / "record" / "golden.npz")
    notes = prove.make(Job(TINY, dataclasses.replace(QUICK, faults=3)), tmp_path / "proof.json", shelf(run_copy))
    assert int(str(notes["missed"])) > 0
    pixels, inputs = golden.read_cases(tmp_path / "cases.npz")
    assert len(pixels) == len(inputs["input"]) > 0
