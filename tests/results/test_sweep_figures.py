"""The figures of a cell: only files that were measured and fail their checks have no speed."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from deploytool.results import sweep_figures
from deploytool.results.sweep import Cell, CellResult, CellState
from deploytool.spec import SpeedVerdict, Stage, Status
from tests.report import sweeps

PASSED = sweeps.passed(Cell("a", "m"), Random(0))
(SPEED,), (CLOSE,) = PASSED.speeds, PASSED.closeness
RATIO = SPEED.ratio or 0.0


def test_a_file_that_fails_its_checks_is_not_the_fastest() -> None:
    rewrite = replace(SPEED, stage=Stage.REWRITE, ratio=RATIO / 2)
    result = replace(PASSED, speeds=(rewrite, SPEED), closeness=(replace(CLOSE, passed=False),))
    assert sweep_figures.fastest(PASSED) == SPEED
    assert sweep_figures.fastest(result) == rewrite


def test_a_file_that_another_backend_could_not_run_has_its_speed() -> None:
    unavailable = replace(CLOSE, status=Status.UNAVAILABLE, tolerances=None, passed=False)
    assert sweep_figures.fastest(replace(PASSED, closeness=(CLOSE, unavailable))) == SPEED


def test_torchscript_and_speeds_without_a_verdict_do_not_count() -> None:
    script, unsure = replace(SPEED, stage=Stage.TORCHSCRIPT), replace(SPEED, verdict=SpeedVerdict.NO_VERDICT)
    assert sweep_figures.fastest(replace(PASSED, speeds=(script, unsure))) is None
    reason = replace(SPEED, ratio=None, reason="the machine was too uneven")
    assert sweep_figures.why_no_speed(replace(PASSED, speeds=(SPEED, reason))) == "the machine was too uneven"
    assert sweep_figures.why_no_speed(replace(PASSED, speeds=())) == "not measured"


def test_the_last_file_ships_with_its_side_file() -> None:
    sizes = {"rewrite/model.onnx": 5, "fp16/model.onnx": 3, "fp16/model.onnx.data": 40, "load/weights.safetensors": 99}
    result = replace(PASSED, sizes=sizes)
    assert (sweep_figures.shipped(result), sweep_figures.size(result)) == ("fp16/model.onnx", 43)
    assert sweep_figures.size(replace(result, sizes={**sizes, "build/model.plan": 7})) == 7
    assert sweep_figures.size(CellResult(Cell("a", "m"), CellState.PENDING, "a")) is None


def test_errors_and_shares_are_the_worst() -> None:
    other = replace(CLOSE, tolerances=9.0, top1=0.5, accuracy=0.25)
    result = replace(PASSED, closeness=(CLOSE, other, replace(CLOSE, tolerances=None, top1=None)))
    assert sweep_figures.worst(result) == other
    assert (sweep_figures.agreement(result), sweep_figures.accuracy(result)) == (0.5, 0.25)
