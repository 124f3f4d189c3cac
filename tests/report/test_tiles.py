"""The four figures under the verdict: they boast of nothing that does not hold."""

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


def at_a_glance(run: Path, changed: Report) -> dict[str, Tile]:
    return {tile.name: tile for tile in tiles.tiles(run_data.read(variants.rewrite(run, changed)))}


def timed(report: Report, *said: tuple[Stage, float, float, SpeedVerdict | None]) -> Report:
    speeds = (
        Speed(stage, "f", "r", Status.MEASURED, 1.0, high, high, low, high, word) for stage, low, high, word in said
    )
    return replace(report, speeds=tuple(speeds))


def test_the_speed_is_the_surest_of_what_holds(run_copy: Path) -> None:
    sound = timed(
        written(run_copy), (Stage.TORCHSCRIPT, 9, 9, None), (Stage.REWRITE, 3, 9, FASTER), (Stage.FP16, 2, 12, FASTER)
    )
    assert at_a_glance(run_copy, sound)["Speed-up against eager"].line == "3.00–9.00, rewrite at batch 1"
    wrong = at_a_glance(run_copy, variants.broken(sound))
    assert wrong["Speed-up against eager"].line == "2.00–12.00, halve at batch 1"
    assert wrong["Checks that hold"].alarm
    assert wrong["Checks that hold"].line.startswith("worst: rewrite")


def test_a_speed_without_a_verdict_is_no_figure(run_copy: Path) -> None:
    uneven = timed(written(run_copy), (Stage.REWRITE, 3, 9, SpeedVerdict.NO_VERDICT))
    tile = at_a_glance(run_copy, uneven)["Speed-up against eager"]
    assert (tile.figure, tile.line) == ("–", "no verdict: the machine was too uneven")
    ((_, _, _, ratio, interval, status),) = timings.speeds(uneven)
    assert (ratio, interval) == ("–", "–")
    assert status.startswith("no verdict")
    assert timings.bars(uneven) == []


def test_a_weak_proof_and_what_is_pending_are_seen(run_copy: Path) -> None:
    glance = at_a_glance(run_copy, variants.weak(written(run_copy)))
    assert glance["Planted faults caught"].alarm
    assert glance["Pending on a device"].figure == "1"
    here = replace(
        written(run_copy),
        comparisons=tuple(comparison for comparison in written(run_copy).comparisons if comparison.checks),
    )
    assert "Run here" in at_a_glance(run_copy, here)
