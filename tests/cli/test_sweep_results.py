"""`report`, `show`, `diff` and `clean` with the folder of a sweep."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from deploytool.cli import app, diff_sweeps
from deploytool.results import sweep as sweeps_file
from deploytool.results.sweep import CellState, Sweep
from tests.cli import hostile
from tests.cli.conftest import OutputOf
from tests.report import sweeps

MISSING = "mixnet_s-fp16-torchscript-rtx40"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return sweeps.store(tmp_path / "sweep", sweeps.sweep())


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A sweep without the last ten cells, with one that fails now."""
    written = sweeps.sweep(seed=3)
    broken = sweeps.ended(written.cells[0].cell, CellState.FAILED, "wrong", "fix it", 3)
    cells = (broken, *written.cells[1:-10])
    return sweeps.store(tmp_path / "other", replace(written, cells=cells))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["deploytool", *map(str, arguments)])
    return app.run()


def test_report_writes_page_table_and_junit(
    home: Path, tmp_path: Path, output_of: OutputOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = output_of("report", home, "--junit", tmp_path / "cells.xml")
    assert printed.splitlines() == [f"Report: {home / 'sweep.html'}", f"JUnit: {tmp_path / 'cells.xml'}"]
    assert "11 of 120 cells did not pass" in (home / "sweep.html").read_text()
    assert len((home / "sweep.csv").read_text().splitlines()) == 121
    assert Xml.parse(tmp_path / "cells.xml").getroot().attrib["tests"] == "120"  # written by deploytool
    assert call(monkeypatch, "report", home, home) == 2
    assert call(monkeypatch, "report", home, "--device", "x.json") == 2
    assert call(monkeypatch, "report", home, "--page", "x.html") == 2


def test_a_junit_file_that_cannot_be_written_is_refused_before_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    words = ("--models", "mobilenet_v1_cifar", "--out", tmp_path / "out", "--junit", tmp_path / "file" / "x.xml")
    assert call(monkeypatch, "sweep", *words) == 2
    assert not (tmp_path / "out").exists()


def test_the_schema_of_a_sweep_is_printed(output_of: OutputOf) -> None:
    assert json.loads(output_of("report", "--sweep-schema"))["$id"] == "urn:deploytool.sweep:1"


def test_show_lists_the_cells_that_did_not_pass_first(home: Path, output_of: OutputOf) -> None:
    printed = output_of("show", home)
    assert (
        "Verdict: 107 of 120 cells passed, 2 pending, 4 failed, 5 refused, 2 lost, 42 with work left for a" in printed
    )
    assert printed.index("detector.py_build-fp16-torchscript-rtx40") < printed.index("shufflenet_g3-fp16")
    assert "and 80 more cells" in printed
    assert output_of("show", home, "--quiet").startswith(f"{home}: 107 of 120 cells passed")
    assert len(json.loads(output_of("show", home, "--json"))["sweep"]["cells"]) == 120


def test_diff_names_new_lost_and_changed_cells(
    home: Path, other: Path, output_of: OutputOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = output_of("diff", home, other)
    assert "Only in A, 10 cells: swin_tiny-fp16-torchscript-rtx40" in printed
    assert "Cells in another state" in printed
    assert "shufflenet_g3-fp16-torchscript-rtx40  passed  failed (FAIL)" in " ".join(printed.split(" "))
    assert "--json has all" in printed
    assert printed.splitlines()[-1].startswith("Verdict: 11 cells, 0 facts and ")
    assert call(monkeypatch, "diff", home, home, "--fail-if", "size>+1%") == 0
    assert call(monkeypatch, "diff", home, other, "--fail-if", "passed<-0%") == 10
    assert call(monkeypatch, "diff", other, home, "--fail-if", "tolerances>1") == 0
    assert call(monkeypatch, "diff", home, other, "--fail-if", "size>+1%") == 6
    assert "make the same cells on both sides" in output_of("diff", home, other, "--fail-if", "size>+1%")


def test_the_reasons_of_a_budget_are_bounded_on_the_terminal_and_complete_in_the_document(
    tmp_path: Path, output_of: OutputOf
) -> None:
    few = sweeps.store(tmp_path / "few", sweeps.of(sweeps.sweep().cells[:1]))
    all_ = sweeps.store(tmp_path / "all", sweeps.sweep())
    printed = output_of("diff", all_, few, "--fail-if", "size>+1%")
    assert printed.count("not measured in") <= 80
    assert "and 66 more" in printed
    reasons = json.loads(output_of("diff", all_, few, "--fail-if", "size>+1%", "--json").partition("\ndeploytool:")[0])
    assert len(reasons["result"]["budgets"][0]["reasons"]) == 106


def test_the_worst_change_comes_first(home: Path, tmp_path: Path, output_of: OutputOf) -> None:
    written = sweeps.sweep()
    slower = replace(written.cells[7], sizes={name: 9 * size for name, size in written.cells[7].sizes.items()})
    better = replace(written.cells[8], sizes={name: size // 9 for name, size in written.cells[8].sizes.items()})
    changed = replace(written, cells=(*written.cells[:7], slower, better, *written.cells[9:]))
    lines = output_of("diff", home, sweeps.store(tmp_path / "b", changed)).splitlines()
    sizes = [line for line in lines if " size " in line]
    assert [line.rpartition(", ")[2].strip() for line in sizes] == ["worse", "better"]
    assert diff_sweeps._ROWS < 100


def test_clean_finds_nothing_in_a_sweep(home: Path, output_of: OutputOf) -> None:
    assert output_of("clean", home).splitlines() == ["Nothing was left behind."]


def test_a_broken_or_old_file_is_one_line(home: Path, output_of: OutputOf) -> None:
    (home / sweeps_file.FILE).write_text("{}")
    for command in (("report", home), ("show", home), ("diff", home, home)):
        assert "is not a sweep of this schema version" in output_of(*command)


def test_foreign_text_cannot_control_the_terminal(tmp_path: Path, output_of: OutputOf) -> None:
    home = sweeps.store(tmp_path / "sweep", sweeps.sweep(sweeps.cells(1)))
    path = home / sweeps_file.FILE
    hostile.poison(
        path, ("schema", "state", "verdict", "precision", "stage", "status", "folder", "digests", "sizes", "shared")
    )
    again = tmp_path / "again"
    again.mkdir()
    (again / sweeps_file.FILE).write_bytes(path.read_bytes().replace(b'"passed"', b'"lost"'))
    for command in (
        ("show", home),
        ("report", home, "--junit", "x.xml"),
        ("diff", home, again, "--fail-if", "size>1B"),
    ):
        output_of(*command)
    assert hostile.FORGED in output_of("show", home)
    for page in (home / "sweep.html", home / "sweep.csv", tmp_path / "x.xml"):
        text = page.read_text(encoding="utf-8")
        assert hostile.FORGED in text
        assert not [*hostile.find_harm(text)]


def test_the_made_up_sweep_is_readable(home: Path) -> None:
    assert isinstance(sweeps_file.read(home), Sweep)
