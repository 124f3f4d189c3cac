"""A detector that selects inside the graph is exported: rows move in FP16, and the run passes by its task."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from deploytool.cli import params
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results import report, verdict
from deploytool.results.report import Report
from deploytool.spec import Decoding, Job, Stage, Task
from tests.conftest import QUICK, ROOT

LEFT_OUT = (Stage.TORCHSCRIPT, Stage.SIMPLIFY, Stage.BUILD, Stage.FAULTS, Stage.KNOWN_ISSUES)


def _export(task: Task | None, folder: Path) -> Report:
    model = catalog.find(f"{ROOT}/tests/user_models/detector.py:separate", params.tensors(["image=3x64x64"]))
    model = dataclasses.replace(model, task=task, decoding=Decoding(threshold=0.0))
    job = Job(model, dataclasses.replace(QUICK, seconds=0.0, exporter="torchscript"))
    recipe = [stage for stage in PIPELINE if stage not in LEFT_OUT]
    return report.read(list(runner.run(job, recipe, folder))[-1].path)


@pytest.mark.integration
def test_a_detector_passes_by_its_task_and_not_without(tmp_path: Path) -> None:
    assert verdict.failed_lines(_export(Task.DETECT, tmp_path / "detect")) == ()
    failed = verdict.failed_lines(_export(None, tmp_path / "unknown"))
    assert {line.split(" ")[0] for line in failed} == {"fp16"}
