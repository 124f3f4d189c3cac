"""The four summary figures count only artifacts that pass their checks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deploytool.report import run_data, tiles, timings
from deploytool.report.tiles import Tile
from deploytool.results.report import Report, Speed
from deploytool.spec import SpeedVerdict, Stage, Status
from tests.report import variants
from tests.report.variants import written

FASTER = SpeedVerdict.FASTER


def tiles_by_name(run: Path, changed: Report) -> dict[str, Tile]:
    return {tile.name: tile for tile in tiles.tiles(run_data.read(variants.rewrite(run, changed)))}


def timed(report: Report, *figures: tuple[Stage, float, float, SpeedVerdict | None]) -> Report:
    speeds = (
        Speed(stage, "f", "r", Status.MEASURED, 1.0, high, high, low, high, word) for stage, low, high, word in figures
    )
    return replace(report, speeds=tuple(speeds))


def test_the_speed_up_is_that_with_the_best_lower_bound_among_passing_artifacts(run_copy: Path) -> None:
    passing = timed(
        written(run_copy), (Stage.TORCHSCRIPT, 9, 9, None), (Stage.REWRITE, 3, 9, FASTER), (Stage.FP16, 2, 12, FASTER)
    )
    assert tiles_by_name(run_copy, passing)["Speed-up over eager PyTorch"].line == "3.00–9.00, rewrite at batch 1"
    failing = tiles_by_name(run_copy, variants.broken(passing))
    assert failing["Speed-up over eager PyTorch"].line == "2.00–12.00, fp16 at batch 1"
    assert failing["Checks passed"].alarm
    assert failing["Checks passed"].line.startswith("worst: rewrite")


def test_a_speed_without_a_verdict_is_not_shown(run_copy: Path) -> None:
    uneven = timed(written(run_copy), (Stage.REWRITE, 3, 9, SpeedVerdict.NO_VERDICT))
    tile = tiles_by_name(run_copy, uneven)["Speed-up over eager PyTorch"]
    assert (tile.figure, tile.line) == ("–", "no verdict: the machine was too uneven")
    ((_, _, _, ratio, interval, status),) = timings.speed_rows(uneven)
    assert (ratio, interval) == ("–", "–")
    assert status.startswith("no verdict")
    assert timings.bars(uneven) == []


def test_weak_fault_detection_and_pending_artifacts_are_shown(run_copy: Path) -> None:
    summary = tiles_by_name(run_copy, variants.weak(written(run_copy)))
    assert summary["Planted faults caught"].alarm
    assert summary["Not measured here"].figure == "1"
    measured = replace(
        written(run_copy),
        comparisons=tuple(comparison for comparison in written(run_copy).comparisons if comparison.checks),
    )
    assert "Measured here" in tiles_by_name(run_copy, measured)
