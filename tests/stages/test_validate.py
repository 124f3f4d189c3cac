"""Tests of the validate stage: comparisons, speeds, the gate and the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results import report, verdict
from deploytool.results.report import Report
from deploytool.spec import Job, Options, Precision, Range, Stage, Status
from deploytool.stages import validate
from tests.conftest import QUICK, TINY, artifacts

MORE_RUNNERS = {"fp32_compute", "fp16_emulation"}  # of the FP16 graph, in addition to that of the options


def validated(run: Path, out: Path, options: Options = QUICK) -> Report:
    validate.make(Job(TINY, options), out / "report.json", artifacts(run))
    return report.read(out / "report.json")


def spoil(graph: Path, weight: str, factor: float) -> None:
    """Scales the first filter of a weight."""
    model = onnx.load(graph)
    tensor = next(tensor for tensor in model.graph.initializer if weight in tensor.name)
    values = numpy_helper.to_array(tensor).copy()
    values[0] *= factor
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, graph)


def test_every_artifact_is_compared_with_the_previous_one_and_the_source(finished: Path) -> None:
    written = report.read(finished / "validate" / "report.json")
    checks = {
        comparison.stage if comparison.runner not in MORE_RUNNERS else f"{comparison.stage}, {comparison.runner}": [
            check.against for check in comparison.checks
        ]
        for comparison in written.comparisons
    }
    at_edges = ["FP64 at black", "FP64 at loud", "FP64 at one colour", "FP64 at faint"]
    at_fp16_edges = [name for name in at_edges if name in checks["fp16"]]
    assert set(at_edges) - set(at_fp16_edges) <= {"FP64 at loud"}, "FP16 need not be accurate there"
    assert checks == {
        "golden": ["FP64"],
        "torchscript": ["eager", "itself at the largest batch", *at_edges, "FP64"],
        "export": ["eager", "itself at the largest batch", *at_edges, "FP64"],
        "simplify": ["export", "itself at the largest batch", *at_edges, "FP64"],
        "rewrite": ["simplify", "itself at the largest batch", *at_edges, "FP64"],
        "fp16": ["rewrite", "itself at the largest batch", *at_fp16_edges, "FP64"],
        "fp16, fp32_compute": ["rewrite with its weights in FP16", "FP64"],
        "fp16, fp16_emulation": ["rewrite", *at_fp16_edges, "FP64"],
        "build": [],
    }
    status = {comparison.stage: comparison.status for comparison in written.comparisons}
    assert status == {stage: Status.MEASURED for stage in checks if "," not in stage} | {"build": Status.BUILT_NOT_RUN}
    assert verdict.failed_lines(written) == ()
    assert verdict.unmeasured_lines(written) == (f"build: {Status.BUILT_NOT_RUN}",)


def test_remarks_of_stages_are_in_the_report(finished: Path, tmp_path: Path) -> None:
    changed = [
        dataclasses.replace(artifact, notes={**artifact.notes, "remarks": ["a remark"]})
        if artifact.made_by == "simplify"
        else artifact
        for artifact in artifacts(finished).artifacts
    ]
    validate.make(Job(TINY, QUICK), tmp_path / "report.json", StageInputs(tuple(changed)))
    assert report.read(tmp_path / "report.json").remarks == (
        "simplify: a remark",
        "rewrite: original, as requested",
    )


def test_the_speed_of_every_artifact_that_runs_here_is_measured(finished: Path) -> None:
    written = report.read(finished / "validate" / "report.json")
    assert {speed.stage: speed.status for speed in written.speeds} == {
        "torchscript": Status.MEASURED,
        "export": Status.MEASURED,
        "simplify": Status.MEASURED,
        "rewrite": Status.MEASURED,
        "fp16": Status.MEASURED,
        "build": Status.BUILT_NOT_RUN,
    }
    for speed in written.speeds:
        if speed.ratio is None:
            assert speed.latency_ms is None
        else:
            assert speed.low is not None
            assert speed.high is not None
            assert 0 < speed.low <= speed.ratio <= speed.high
    assert written.device
    assert written.rounds >= 7


@pytest.mark.parametrize("stage", ["export", "simplify", "rewrite", "fp16"])
def test_a_fault_fails_the_comparisons_of_its_own_stage_and_the_next(
    run_copy: Path, tmp_path: Path, stage: str
) -> None:
    spoil(run_copy / stage / "model.onnx", "classifier.weight", factor=3.0)
    failed = verdict.failed_lines(validated(run_copy, tmp_path))
    assert failed[0].startswith(f"{stage} against ")
    stages = ("export", "simplify", "rewrite", "fp16")
    later = stages[stages.index(stage) + 1 :]
    failed_stages = {line.split()[0] for line in failed if "FP64" not in line} - {stage}
    assert failed_stages == set(later[:1]), "only the next stage is compared with the faulty artifact"


def test_a_fault_in_torchscript_fails_no_other_stage(run_copy: Path, tmp_path: Path) -> None:
    script, other = (run_copy / "torchscript" / "model.pt"), tmp_path / "other"
    from deploytool.pipeline import runner

    list(
        runner.run(Job(TINY, dataclasses.replace(QUICK, seed=3)), (Stage.LOAD, Stage.GOLDEN, Stage.TORCHSCRIPT), other)
    )
    script.write_bytes((other / "torchscript" / "model.pt").read_bytes())
    assert {line.split()[0] for line in verdict.failed_lines(validated(run_copy, tmp_path))} == {"torchscript"}


@pytest.mark.parametrize("batch", [Range(1, 1, 1), Range(3, 3, 3), Range(16, 16, 16)])
def test_any_range_of_batch_sizes_is_validated(run_copy: Path, tmp_path: Path, batch: Range) -> None:
    written = validated(run_copy, tmp_path, dataclasses.replace(QUICK, batch=batch))
    assert verdict.failed_lines(written) == ()
    assert written.batch == batch.smallest


def test_a_graph_with_fp16_inputs_is_validated(run_copy: Path, tmp_path: Path) -> None:
    from deploytool.pipeline import runner

    options = dataclasses.replace(QUICK, io=Precision.FP16)
    recipe = [stage for stage in PIPELINE if stage != Stage.BUILD]
    written = report.read(list(runner.run(Job(TINY, options), recipe, run_copy))[-1].path)
    assert verdict.failed_lines(written) == ()


def test_nan_in_the_answers_of_an_artifact_fails(run_copy: Path, tmp_path: Path) -> None:
    spoil(run_copy / "fp16" / "model.onnx", "classifier.weight", factor=np.nan)
    written = validated(run_copy, tmp_path)
    fp16 = next(comparison for comparison in written.comparisons if comparison.stage == "fp16")
    assert [check.parity.invalid for check in fp16.checks] == [4, 8, 1, 1, 1, 4]
    assert all("invalid" in check.broken for check in fp16.checks)
