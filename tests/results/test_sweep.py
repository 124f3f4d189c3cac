from __future__ import annotations

from pathlib import Path

import pytest

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.results import sweep
from deploytool.results.measure import Inferiority
from deploytool.results.sweep import Cell, CellResult, CellState, Closeness, Drop, Machine, Pending, SpeedUp, Sweep
from deploytool.spec import Precision, Range, SpeedVerdict, Stage, Status, Verdict

CELL = Cell("tiny-fp16-orin", "tiny", "w.pth", Precision.FP16, "dynamo", "orin", Range(1, 4, 8), "photos", quick=False)
SPEED = SpeedUp(Stage.FP16, "model.onnx", "onnxruntime", Status.MEASURED, 1.5, 2.0, 1.9, 2.1, SpeedVerdict.FASTER, "")
CLOSENESS = Closeness(
    Stage.FP16, "model.onnx", "fp32_compute", Status.MEASURED, "eager", 1e-4, 0.25, True, 1.0, 0.9, 1.0, None, None
)
RESULT = CellResult(
    CELL,
    CellState.FAILED,
    "tiny-fp16-orin",
    Verdict.FAIL,
    3,
    "parity failed",
    "look",
    2.0,
    1.0,
    3.0,
    Machine("desk", "a CPU"),
    timed=True,
    digests={"fp16/model.onnx": "0" * 64},
    sizes={"fp16/model.onnx": 10},
    speeds=(SPEED,),
    closeness=(CLOSENESS,),
    pending=(Pending("model.plan", "orin", "built, not run", "no GPU"),),
    shared=(Stage.LOAD, Stage.GOLDEN),
    drops=(Drop(Stage.FP16, "model.onnx", "", "top1", 0.01, 0.0, 0.02, 0.005, Inferiority.NOT_DECIDED),),
)
SWEEP = Sweep(sweep.SCHEMA, {"torch": "2"}, {"seed": 0}, (RESULT,), 1.0)


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / sweep.FILE).write_text(serde.text(SWEEP), encoding="utf-8")
    assert sweep.read(tmp_path) == SWEEP
    assert SWEEP.count(CellState.FAILED) == 1


@pytest.mark.parametrize("content", [None, "{}", '{"schema": "deploytool.sweep/0"}'])
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / sweep.FILE).write_text(content)
    with pytest.raises(BadInput, match="sweep"):
        sweep.read(tmp_path)
