"""A sweep of a real model: its files are those of single exports."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import deploytool
from deploytool.errors import BadInput
from deploytool.results.artifact import Kind
from deploytool.results.sweep import CellState
from deploytool.spec import Precision, Stage
from deploytool.sweeps import store
from tests import warm
from tests.conftest import ROOT

MODEL = f"{ROOT / 'tests' / 'tiny.py'}:tiny"
COMMON: dict[str, Any] = {"inputs": [(3, 32, 32)], "arguments": {"classes": 10}}


def export_alone(warmed: str, options: list[str]) -> None:
    """An export in a process of its own: TorchScript numbers the classes of a process."""
    shape = ["--input", "3x32x32", "--arg", "classes=10"]
    command = warm.command(warmed, "-m", "deploytool", "export", MODEL, *shape, *options)
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)


def without_seconds(report: Path) -> Any:
    content = json.loads(report.read_text())
    return {**content, "engines": [{**engine, "seconds": 0} for engine in content["engines"]]}


@pytest.mark.integration
def test_the_files_of_cells_are_those_of_single_exports(warmed: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {"precisions": ["fp32", "fp16"], "targets": ["rtx40", "rtx30"], "quick": True}
    made = deploytool.sweep([MODEL], **words, export=COMMON, out=tmp_path / "sweep", workers=1)
    assert [result.state for result in made.cells] == [CellState.PASSED] * 3
    for result in made.cells:
        precision, target = result.cell.precision, result.cell.target
        home = tmp_path / "single" / f"{precision}{target}"
        options = ["--to", "onnx"] if precision is Precision.FP32 else ["--target", target]
        export_alone(warmed, [*options, "--quick", "--out", str(home)])
        theirs = store.digests(home)[0]
        report = f"{Stage.VALIDATE}/{Kind.REPORT.value}"  # it has the time that the build of the engine took
        assert {**result.digests, report: ""} == {**theirs, report: ""}
        assert without_seconds(tmp_path / "sweep" / result.folder / report) == without_seconds(home / report)
        assert set(result.shared) >= {Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY}
        assert result.closeness
        assert {pending.device for pending in result.pending} == ({target} if target else set())
    again = deploytool.sweep([MODEL], **words, export=COMMON, out=tmp_path / "sweep")
    assert (again.reused, again.workers) == (3, 0)


@pytest.mark.integration
def test_a_model_that_cannot_be_exported_is_a_row(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text("def make():\n    raise RuntimeError('it is odd')\n")
    words: dict[str, Any] = {"targets": ["rtx40", "rtx30"], "quick": True}
    made = deploytool.sweep([f"{net}:make"], **words, export={"inputs": [(3, 32, 32)]}, out=tmp_path / "sweep")
    assert {result.state for result in made.cells} == {CellState.REFUSED}
    assert all("it is odd" in result.problem for result in made.cells)


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadInput, match="no option 'sed'"):
        deploytool.sweep(["mixnet_s"], export={"sed": 1})
