"""The required speed-up is judged by what was asked for and timed, and the worst row decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from deploytool.results import speed_gate
from deploytool.results.report import Engine, Gate, Speed
from deploytool.spec import GateOutcome, Precision, SpeedVerdict, Stage, Status

FILE = "file"
REACHED, MISSED, OPEN = GateOutcome.REACHED, GateOutcome.MISSED, GateOutcome.OPEN


def speed(stage: Stage, low: float | None, file: str = FILE, runner: str = "onnxruntime") -> Speed:
    status = Status.MEASURED if low is not None else Status.BUILT_NOT_RUN
    return Speed(stage, file, runner, status, 1.0, 2.0, low and low + 0.1, low, low and low + 0.2)


def engine(file: str, precision: Precision) -> Engine:
    return Engine(file, 1, "tensorrt_rtx", "1.7", (), {}, 1.0, precision)


ENGINES = (
    engine("model.plan", Precision.FP16),
    engine("bf16_model.plan", Precision.BF16),
    engine("int8_model.plan", Precision.INT8),
    engine("fp8_model.plan", Precision.FP8),
)


def built(*lows: float | None) -> list[Speed]:
    """The rows of `ENGINES`."""
    return [speed(Stage.BUILD, low, each.file) for low, each in zip(lows, ENGINES, strict=False)]


@pytest.mark.parametrize(
    ("speeds", "stage", "outcome"),
    [
        ((speed(Stage.SIMPLIFY, 2.1), speed(Stage.FP16, 0.9)), Stage.SIMPLIFY, REACHED),
        ((speed(Stage.SIMPLIFY, 1.9), speed(Stage.FP16, 0.9)), Stage.SIMPLIFY, MISSED),
        ((speed(Stage.TORCHSCRIPT, 9.0), speed(Stage.SIMPLIFY, 1.0)), Stage.SIMPLIFY, MISSED),
        ((speed(Stage.SIMPLIFY, 9.0), *built(1.5)), Stage.BUILD, MISSED),
        ((speed(Stage.SIMPLIFY, 1.0), *built(2.5)), Stage.BUILD, REACHED),
        ((speed(Stage.SIMPLIFY, 9.0), *built(None)), Stage.BUILD, OPEN),
        ((speed(Stage.SIMPLIFY, 1.9), speed(Stage.INT8, 9.0)), Stage.SIMPLIFY, MISSED),
        ((speed(Stage.SIMPLIFY, 9.0), *built(1.9, 9.0)), Stage.BUILD, MISSED),
    ],
)
def test_without_a_precision_the_gate_is_for_what_ships(
    speeds: Sequence[Speed], stage: Stage, outcome: GateOutcome
) -> None:
    gate = speed_gate.judge(2.0, speeds, ENGINES, ())
    assert gate is not None
    assert (gate.stage, gate.outcome) == (stage, outcome)
    assert gate.reason == ("built, not run" if outcome is OPEN else "")


INT8, OPENVINO = "int8/int8.onnx", "int8/openvino.onnx in OpenVINO"
ORT_ROW, OPENVINO_ROW = (Stage.INT8, "int8.onnx", "onnxruntime"), (Stage.INT8, "openvino.onnx", "openvino")


def int8(in_onnxruntime: float | None, in_openvino: float | None) -> list[Speed]:
    pairs = ((ORT_ROW, in_onnxruntime), (OPENVINO_ROW, in_openvino))
    return [speed(stage, low, file, runner) for (stage, file, runner), low in pairs]


@pytest.mark.parametrize(
    ("asked", "speeds", "outcome", "judged"),
    [
        ("int8", [speed(Stage.REWRITE, 1.0), *int8(1.5, 2.1)], REACHED, [OPENVINO]),
        ("int8", [speed(Stage.REWRITE, 9.0), *int8(1.9, 1.5)], MISSED, [INT8]),
        ("fp16,int8", [speed(Stage.REWRITE, 1.0), *int8(2.2, 2.1)], MISSED, ["rewrite/file", INT8]),
        ("fp16,int8", [speed(Stage.REWRITE, 3.0), *int8(1.2, 1.1)], MISSED, [INT8, "rewrite/file"]),
        ("fp16,int8", [speed(Stage.REWRITE, 3.0), *int8(2.2, 2.1)], REACHED, [INT8, "rewrite/file"]),
        ("int8", [*int8(2.2, None), *built(None)], REACHED, [INT8]),
        ("fp16,int8", [*int8(2.2, None), *built(None)], OPEN, ["build/model.plan", INT8]),
        ("int8", [speed(Stage.REWRITE, 3.0), *int8(None, None)], REACHED, ["rewrite/file"]),
        ("fp8", [speed(Stage.REWRITE, 3.0), *built(None, None, None, None)], OPEN, ["build/model.plan"]),
        ("fp8", built(1.0, 1.0, 1.0, 2.5), REACHED, ["build/fp8_model.plan"]),
        ("bf16", built(9.0, 1.5, 9.0, 9.0), MISSED, ["build/bf16_model.plan"]),
        (
            "bf16,int8,fp8",
            built(1.0, 2.1, 2.2, 1.5),
            MISSED,
            ["build/fp8_model.plan", "build/bf16_model.plan", "build/int8_model.plan"],
        ),
    ],
)
def test_every_precision_that_was_asked_for_and_timed_is_judged(
    asked: str, speeds: Sequence[Speed], outcome: GateOutcome, judged: list[str]
) -> None:
    gate = speed_gate.judge(2.0, speeds, ENGINES, [Precision(name) for name in asked.split(",")])
    assert gate is not None
    assert (gate.outcome, list(gate.judged), gate.row) == (outcome, judged, judged[0])


def test_the_line_names_the_rows_that_were_judged() -> None:
    gate = speed_gate.judge(2.0, [speed(Stage.REWRITE, 3.0), *int8(1.2, 1.1)], (), (Precision.FP16, Precision.INT8))
    assert gate is not None
    line = speed_gate.line(2.0, gate.outcome, gate.reason, gate.judged)
    assert line == "--min-speedup 2: missed, judged by int8/int8.onnx and rewrite/file"
    assert speed_gate.line(2.0, OPEN, "built, not run", ["x"]) == "--min-speedup 2: open, judged by x: built, not run"


def test_the_gate_stays_open_on_an_uneven_machine() -> None:
    unreliable = dataclasses.replace(
        speed(Stage.SIMPLIFY, 187.0), verdict=SpeedVerdict.NO_VERDICT, reason="eager waited"
    )
    gate = speed_gate.judge(2.0, (unreliable, speed(Stage.FP16, 0.9)), (), ())
    assert gate == Gate(2.0, Stage.SIMPLIFY, OPEN, "no verdict (eager waited)", ("simplify/file",))


def test_without_a_minimum_speedup_there_is_no_gate() -> None:
    assert speed_gate.judge(None, (), (), ()) is None
