"""The summary in Markdown: what it says, and that nothing of a model's names is markup in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deploytool.report import markdown, run_data
from deploytool.report.run_data import RunData
from tests.report.variants import HOSTILE


def read(home: Path) -> RunData:
    return run_data.read(home)


def table(text: str, title: str) -> list[list[str]]:
    """The cells of the table below a title; every row must have as many as the first."""
    lines = text[text.index(title) :].split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert len({len(row) for row in cells}) == 1
    return cells


def test_a_run_that_passes(finished: Path) -> None:
    text = markdown.text(read(finished))
    assert text.startswith("## tiny: pass for all that ran here\n")
    artifacts = table(text, "**Largest error")
    assert [row[-1] for row in artifacts[2:]].count("pass") >= 4
    assert {"export/model.onnx", "fp16/model.onnx"} <= {row[0] for row in artifacts}
    assert "**Engines**\n\n- model.plan: tensorrt\\_rtx" in text
    assert "**Not verified here**\n\n- build: built, not run" in text


def test_a_run_that_fails_says_why_first(failing: Path) -> None:
    lines = markdown.text(read(failing)).splitlines()
    assert lines[0] == "## tiny: FAIL"
    assert lines[1] == ""
    assert lines[2].startswith("- simplify")
    assert any(row[-1] == "FAIL" for row in table("\n".join(lines), "**Largest error"))


def test_names_are_no_markup(finished: Path) -> None:
    run = read(finished)
    hostile = replace(run, report=replace(run.report, model=HOSTILE, device="a|b <img src=x> [c](d) `e` @f *g*\n# h"))
    text = markdown.text(hostile)
    assert "a\\|b \\<img src=x\\> \\[c\\](d) \\`e\\` \\@f \\*g\\* \\# h" in text
    assert "<script" not in text.replace("\\<script", "")
    assert text.count("\n## ") == 0
