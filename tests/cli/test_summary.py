from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from deploytool import report
from deploytool.artifact import Kind
from deploytool.cli import summary
from deploytool.report import FASTER, MEASURED, NEITHER, Speed, no_verdict

UNEVEN = no_verdict("other programs took 1.4 of 2 cores")


def shown(finished: Path, *speeds: Speed) -> str:
    written = dataclasses.replace(report.read(finished / "validate" / Kind.REPORT.value), speeds=speeds)
    console = Console(width=80, record=True, file=io.StringIO())
    summary.show(console, written, finished)
    return console.export_text()


def speed(stage: str, verdict: str | None) -> Speed:
    return Speed(stage, "graph.onnx", "onnxruntime", MEASURED, 10.0, 20.0, 2.0, 1.9, 2.1, verdict)


@pytest.mark.parametrize(
    ("verdict", "cell"),
    [
        (None, "2.00× (1.90–2.10)"),
        (FASTER, "2.00× (1.90–2.10)"),
        (NEITHER, "1.90–2.10: no significant difference"),
        (UNEVEN, "no verdict, see below"),
    ],
)
def test_a_ratio_is_said_as_far_as_it_can_be(finished: Path, verdict: str | None, cell: str) -> None:
    lines = shown(finished, speed("translate", verdict)).splitlines()
    (line,) = [line for line in lines if "10.00 ms" in line]
    assert line.split("20.00 ms")[1].strip() == cell
    assert len(line) <= 80


def test_the_reason_for_no_verdict_is_said_once(finished: Path) -> None:
    text = shown(finished, speed("translate", UNEVEN), speed("simplify", UNEVEN))
    assert text.count(f"Speed: {UNEVEN}") == 1
    assert "2.00×" not in text
