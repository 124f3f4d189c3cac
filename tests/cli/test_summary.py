"""The printed table of speeds: cells by verdict, and the reason for no verdict."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from deploytool import targets
from deploytool.bundle.manifest import read_manifest
from deploytool.cli import pack, summary
from deploytool.results import report
from deploytool.results.artifact import Kind
from deploytool.results.fp8 import Fp8
from deploytool.results.report import Speed
from deploytool.spec import Decision, SpeedVerdict, Stage, Status, TargetPlan

UNEVEN = "the machine was too uneven: other programs took 1.4 of 2 cores"


def printed(finished: Path, *speeds: Speed) -> str:
    changed = dataclasses.replace(report.read(finished / "validate" / Kind.REPORT.value), speeds=speeds)
    console = Console(width=80, record=True, file=io.StringIO())
    summary.show(console, changed, finished)
    return console.export_text()


def speed(stage: Stage, verdict: SpeedVerdict | None) -> Speed:
    why = UNEVEN if verdict is SpeedVerdict.NO_VERDICT else ""
    return Speed(stage, "model.onnx", "onnxruntime", Status.MEASURED, 10.0, 20.0, 2.0, 1.9, 2.1, verdict, why)


@pytest.mark.parametrize(
    ("verdict", "cell"),
    [
        (None, "2.00× (1.90–2.10)"),
        (SpeedVerdict.FASTER, "2.00× (1.90–2.10)"),
        (SpeedVerdict.NEITHER, "1.90–2.10: no significant difference"),
        (SpeedVerdict.NO_VERDICT, "no verdict, see below"),
    ],
)
def test_the_speed_up_is_printed_as_far_as_the_verdict_allows(
    finished: Path, verdict: SpeedVerdict | None, cell: str
) -> None:
    lines = printed(finished, speed(Stage.EXPORT, verdict)).splitlines()
    (line,) = [line for line in lines if "10.00 ms" in line]
    assert line.split("20.00 ms")[1].strip() == cell
    assert len(line) <= 80


def test_the_reason_for_no_verdict_is_printed_once(finished: Path) -> None:
    text = printed(
        finished, speed(Stage.EXPORT, SpeedVerdict.NO_VERDICT), speed(Stage.SIMPLIFY, SpeedVerdict.NO_VERDICT)
    )
    assert text.count(f"Speed: no verdict ({UNEVEN})") == 1
    assert "2.00×" not in text


def test_a_target_that_builds_on_the_device_has_the_graphs_that_its_gpu_computes(finished: Path) -> None:
    fp8 = Fp8("fp8.onnx", 20, False, False, 0.1, 1.0, 1.0)
    decisions = [
        Decision(name, TargetPlan.ON_DEVICE, "no builder here", targets.TARGETS[name].capability, targets.TENSORRT)
        for name in ("orin", "h100", "b200")
    ]
    written = dataclasses.replace(
        report.read(finished / "validate" / "report.json"), engines=(), targets=tuple(decisions)
    )
    half, narrow = f"{Path('run/fp16/model.onnx')}", f"{Path('run/fp8/fp8.onnx')}"
    for made, graphs in ((None, [half] * 3), (fp8, [half, f"{half} and {narrow}", f"{half} and {narrow}"])):
        lines = summary._engine_lines(dataclasses.replace(written, fp8=made), Path("run"))
        assert [line.rpartition("from ")[2] for line in lines] == graphs


def test_pack_says_why_a_run_with_fp8_has_a_bundle_without(run_copy: Path, packed: Path) -> None:
    manifest = read_manifest(packed)
    assert pack._fp8_lines(run_copy, manifest) == []
    path = run_copy / "validate" / "report.json"
    report.write(path, dataclasses.replace(report.read(path), fp8=Fp8("fp8.onnx", 20, False, False, 0.1, 1.0, 1.0)))
    (line,) = pack._fp8_lines(run_copy, manifest)
    assert "is not packed" in line
