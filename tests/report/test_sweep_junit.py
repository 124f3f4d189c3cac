"""JUnit XML of a sweep: one case for each cell, in a suite for each model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as draw

from deploytool.errors import BadInput
from deploytool.report import junit
from deploytool.results.sweep import Cell, CellResult, CellState, Sweep
from tests.report import sweeps

CHILD = {"failed": "failure", "refused": "error", "lost": "error", "pending": "skipped"}


def case(result: CellResult, path: Path) -> Xml.Element:
    return parse(sweeps.of([result]), path)[0][0]


def parse(sweep: Sweep, path: Path) -> Xml.Element:
    junit.write_sweep(path, sweep)
    return Xml.parse(path).getroot()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "junit.xml"


def test_every_cell_is_a_case_and_is_counted(path: Path) -> None:
    sweep = sweeps.sweep()
    root = parse(sweep, path)
    assert [suite.attrib["name"] for suite in root] == list(sweeps.MODELS)
    assert [each.attrib["name"] for each in root.iter("testcase")] == [each.cell.name for each in sweep.cells]
    counted = {name: int(root.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    assert counted == {
        "tests": len(sweep.cells),
        "failures": sweep.count(CellState.FAILED),
        "errors": sweep.count(CellState.REFUSED) + sweep.count(CellState.LOST),
        "skipped": sweep.count(CellState.PENDING),
    }
    assert all(counted[name] for name in ("tests", "failures", "errors"))
    for name in counted:
        assert counted[name] == sum(int(suite.attrib[name]) for suite in root)


@pytest.mark.parametrize("state", [state for state in CellState if state is not CellState.PASSED])
def test_what_did_not_pass_has_its_reason_and_its_remedy(path: Path, state: CellState) -> None:
    element = case(sweeps.ended(Cell("a", "m"), state, "the problem", "the remedy"), path)
    (child,) = element
    assert (child.tag, child.attrib["message"]) == (CHILD[state], "the problem")
    assert (child.text or "") == ("" if state is CellState.PENDING else "the remedy")
    assert element.attrib["classname"] == "sweep.m"


@pytest.mark.parametrize("state", [state for state in CellState if state is not CellState.PASSED])
def test_a_reason_is_never_empty(path: Path, state: CellState) -> None:
    (child,) = case(sweeps.ended(Cell("a", "m"), state), path)
    assert child.attrib["message"]


def test_a_passed_cell_has_its_time_and_what_is_pending(path: Path) -> None:
    result = sweeps.passed(Cell("a", "m", target="orin"), Random(0))
    element = case(replace(result, seconds=12.5), path)
    (child,) = element
    assert element.attrib["time"] == "12.5"
    assert (child.tag, child.text) == ("system-out", "pending on orin: build/model.plan, built, not run")


@given(draw.text(max_size=20), draw.sampled_from(CellState))
def test_any_text_gives_valid_xml(text: str, state: CellState) -> None:
    written = junit.sweep_text(sweeps.of([sweeps.ended(Cell(text, text), state, text, text)]))
    assert len(list(Xml.fromstring(written).iter("testcase"))) == 1
    written.encode()


def test_a_file_that_cannot_be_written_is_a_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot write"):
        junit.write_sweep(tmp_path / "file" / "junit.xml", sweeps.sweep([]))
