"""An interrupted campaign resumes with the results that it had written."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.power import clean, faults


def test_results_are_read_back_without_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results"
    result = faults.Result("vit", "mask_dropped", "here", "graph", float("inf"), True)
    whole = json.dumps({"vit, seed 0": [asdict(result)]})
    path.write_text(f"{whole}\n{whole[:30]}")
    assert faults.read(path) == {"vit, seed 0": [result]}
    assert faults.read(None) == faults.read(tmp_path / "nothing") == {}


@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("names", [("vit", "bert"), ("vit", "bert", "swin")])
def test_every_model_is_checked_with_both_exporters(names: tuple[str, ...], number: int) -> None:
    jobs = [clean.model_job(names, number), clean.model_job(names, number + len(names))]
    assert {job.options.exporter for job in jobs} == {"torchscript", "dynamo"}
    assert len({job.model.name for job in jobs}) == 1


def test_judgements_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "results"
    judgement = clean.Judgement("vit, 1 threads, batch 1", "", True, 0.25)
    path.write_text(json.dumps({"vit": [asdict(judgement)]}) + "\n")
    assert clean.read(path) == {"vit": [judgement]}
