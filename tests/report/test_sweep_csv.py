"""sweep.csv: one row for each cell, columns that stay, and no text that a spreadsheet program runs."""

from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as draw

from deploytool.report import sweep_csv
from deploytool.results.sweep import Cell, CellResult, CellState
from deploytool.spec import Range
from tests.report import sweeps

COLUMNS = (
    *("cell", "model", "weights", "precision", "exporter", "target", "batch", "data", "quick"),
    *("state", "verdict", "exit_code", "problem", "remedy", "pending"),
    *("speedup_ratio", "speedup_low", "speedup_high", "latency_ms", "fastest_file", "no_speedup_reason"),
    *("size_bytes", "size_file", "largest_error_relative", "largest_error_tolerances", "largest_error_file"),
    *("same_class_share", "accuracy_share", "timed", "duration_s", "started_utc", "ended_utc"),
    *("machine", "processor", "gpus", "folder", "sha256"),
    *("metric", "metric_drop", "metric_drop_low", "metric_drop_high", "metric_margin", "metric_verdict"),
    "metric_file",
)
NUMBERS = {"exit_code", "duration_s"} | {name for name in COLUMNS if name.endswith(("_ratio", "_low", "_ms", "_bytes"))}


def rows(*results: CellResult) -> list[dict[str, str]]:
    table = csv.DictReader(io.StringIO(sweep_csv.text(sweeps.of(results)), newline=""))
    assert table.fieldnames is not None
    assert tuple(table.fieldnames) == COLUMNS, "a program that reads the table relies on these"
    return list(table)


def test_every_cell_is_a_row_with_its_figures() -> None:
    written = sweeps.sweep()
    table = rows(*written.cells)
    assert [row["cell"] for row in table] == [each.cell.name for each in written.cells]
    for row, each in zip(table, written.cells, strict=True):
        assert row["state"] == each.state
        if each.state is CellState.PASSED:
            (speed,), (close,) = each.speeds, each.closeness
            assert float(row["speedup_ratio"]) == speed.ratio
            assert float(row["latency_ms"]) == speed.latency_ms
            assert float(row["largest_error_tolerances"]) == close.tolerances
            assert int(row["size_bytes"]) == each.sizes[row["size_file"]]
            assert row["sha256"] == each.digests[row["size_file"]]
        else:
            assert row["speedup_ratio"] == row["size_bytes"] == ""
            assert row["problem"] == each.problem


def test_the_drop_by_the_metric_of_the_user_is_the_worst_of_a_cell() -> None:
    cell = sweeps.passed(Cell("a", "m"), Random(0))
    (row,) = rows(replace(cell, drops=sweeps.DROPS))
    assert [row[name] for name in COLUMNS[-7:]] == ["map", "0.02", "0.01", "0.03", "0.005", "worse", "fp16/model.onnx"]
    (without,) = rows(cell)
    assert not any(without[name] for name in COLUMNS[-7:])


def test_times_are_utc_and_a_batch_is_what_the_option_takes() -> None:
    cell = Cell("a", "m", batch=Range(1, 4, 16))
    (row,) = rows(replace(sweeps.passed(cell, Random(0)), started=0.4, ended=None))
    assert (row["started_utc"], row["ended_utc"]) == ("1970-01-01T00:00:00Z", "")
    assert row["batch"] == "1:4:16"
    assert sweep_csv.batch_text(Range(8, 8, 8)) == "8"
    assert sweep_csv.batch_text(None) == ""


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\r\n=1", "|cmd", "＝1", "\u2003=1", "%0A=1"]
)
def test_a_text_is_no_formula(text: str) -> None:
    (row,) = rows(sweeps.ended(Cell(text, text), CellState.REFUSED, text, text))
    for column in ("cell", "model", "problem", "remedy"):
        assert row[column].startswith("'") or row[column].lstrip()[:1] not in "=+-@|%＝"
    assert row["cell"].endswith(text[-2:])


@given(draw.text(max_size=20))
def test_foreign_text_stays_one_field_of_one_line(text: str) -> None:
    written = sweeps.of([sweeps.ended(Cell(text, text), CellState.FAILED, text, text)])
    table = sweep_csv.text(written)
    assert len(table.splitlines()) == 2
    assert not [char for char in table.replace("\r\n", "") if unicodedata.category(char) in ("Cc", "Cf", "Cs")]
    (row,) = rows(*written.cells)
    for column, field in row.items():
        if column not in NUMBERS:
            assert not field.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
    table.encode()
