"""Compares several runs: a table row for each, and Pareto plots of latency and accuracy."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from deploytool.host import disk
from deploytool.report import rows, tiles
from deploytool.report.rows import NONE, Point
from deploytool.report.run_data import RunData
from deploytool.report.tiles import Tone
from deploytool.results.artifact import PAGE, Kind
from deploytool.results.report import Report, Speed
from deploytool.spec import Stage

FidelityMeasure = Callable[[Report, Speed], float | None]

_SMALLEST_ERROR = 1e-9  # replaces zero on a logarithmic axis


@dataclass(frozen=True)
class ParetoPlot:
    """Artifacts that can be compared: measured on one device at one batch size; `vertical` labels the other axis."""

    device: str
    batch: int
    vertical: str
    logarithmic: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Row:
    """One run: its verdict, its size, and its best figures; `link` is the relative path of its page."""

    model: str
    link: str | None
    home: str
    verdict: str
    tone: Tone
    cells: tuple[str, ...]


@dataclass(frozen=True)
class RunComparison:
    """The rows of all runs, their column names, and the numbered Pareto plots."""

    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    plots: tuple[tuple[int, ParetoPlot], ...]


_COLUMNS = (
    "model",
    "verdict",
    "parameters",
    "MACs",
    "FP16 graph",
    "FP16 error",
    "same class",
    "fastest",
    "latency",
    "speed-up",
)


def compare(runs: Sequence[RunData], folder: Path) -> RunComparison:
    """Compares runs in the given order; links are relative to `folder`, where the page will be."""
    named_runs = list(zip(_names(runs), runs, strict=True))
    table = tuple(_row(name, run, folder) for name, run in named_runs)
    return RunComparison(table, _COLUMNS, tuple(enumerate(_plots(named_runs))))


def _names(runs: Sequence[RunData]) -> list[str]:
    """The model of each run; its folder if several runs have the same model."""
    models = [run.report.model for run in runs]
    return [run.home.name if models.count(model) > 1 else model for model, run in zip(models, runs, strict=True)]


def _row(name: str, run: RunData, folder: Path) -> Row:
    report, origin = run.report, run.origin
    counts = (NONE if count is None else f"{count / 1e6:,.1f} M" for count in (origin.parameters, origin.macs))
    fp16_size = run.bytes_of(Stage.FP16, Kind.GRAPH.value)
    timed = [speed for speed in report.speeds if speed.latency_ms is not None and _may_be_fastest(report, speed)]
    best = min(timed, key=lambda speed: speed.latency_ms or 0.0, default=None)
    fastest = (NONE, NONE, NONE)
    if best is not None:
        fastest = (best.stage, f"{best.latency_ms:.2f} ms", f"{best.ratio:.2f}×")
    page = run.home / PAGE
    link = Path(os.path.relpath(page, folder)).as_posix() if page.is_file() else None
    cells = (*counts, NONE if fp16_size is None else disk.size(fp16_size), *_fp16_figures(report), *fastest)
    return Row(name, link, str(run.home), run.conclusion.verdict, tiles.tone(run.conclusion), cells)


def _may_be_fastest(report: Report, speed: Speed) -> bool:
    """Whether an artifact is a graph or an engine and passes its checks."""
    return speed.stage is not Stage.TORCHSCRIPT and _passes(report, speed)


def _passes(report: Report, speed: Speed) -> bool:
    return not any(
        check.broken
        for comparison in report.comparisons
        if comparison.stage == speed.stage
        for check in comparison.checks
    )


def _fp16_figures(report: Report) -> tuple[str, str]:
    """The largest FP16 error, also in multiples of the noise, and the share of cases with the source's class."""
    measured = [comparison for comparison in report.comparisons if comparison.stage is Stage.FP16 and comparison.checks]
    if not measured:
        return (NONE, NONE)
    worst = max(measured, key=lambda comparison: comparison.checks[-1].parity.max_error)
    largest = worst.checks[-1].parity.max_error
    top1 = min((comparison.agreement.top1 for comparison in measured if comparison.agreement), default=None)
    noise = f" ({rows.times(largest / worst.noise)} noise)" if worst.noise else ""
    return (rows.error(largest) + noise, NONE if top1 is None else f"{top1:.1%}")


def _plots(named_runs: Sequence[tuple[str, RunData]]) -> list[ParetoPlot]:
    """For each device and batch size, a plot by error; one by class agreement if it differs on the user's images."""
    plots = []
    for (device, batch), members in groupby(sorted(named_runs, key=_device_and_batch), key=_device_and_batch):
        group = list(members)
        by_error = [point for name, run in group for point in _points(name, run, _largest_error)]
        plots.append(ParetoPlot(device, batch, "largest error against FP64", True, mark_front(by_error, lower=True)))
        by_class = [point for name, run in group if run.report.data for point in _points(name, run, _same_class)]
        if len({point.value for point in by_class}) > 1:
            front = mark_front(by_class, lower=False)
            plots.append(ParetoPlot(device, batch, "same class as the source", False, front))
    return [plot for plot in plots if plot.points]


def _device_and_batch(named_run: tuple[str, RunData]) -> tuple[str, int]:
    return named_run[1].report.device, named_run[1].report.batch


def _points(name: str, run: RunData, measure: FidelityMeasure) -> list[Point]:
    report = run.report
    timed = [(speed, measure(report, speed)) for speed in report.speeds if speed.latency_ms is not None]
    return [
        Point(name, f"{name} {speed.stage}", speed.latency_ms or 0.0, value, _passes(report, speed), front=False)
        for speed, value in timed
        if value is not None
    ]


def _largest_error(report: Report, speed: Speed) -> float | None:
    """The largest error of an artifact against FP64, in any runner."""
    errors = [
        comparison.checks[-1].parity.max_error
        for comparison in report.comparisons
        if comparison.stage == speed.stage and comparison.checks
    ]
    return max([_SMALLEST_ERROR, *errors]) if errors else None


def _same_class(report: Report, speed: Speed) -> float | None:
    """The smallest share of cases with the source's class, in any runner."""
    shares = [
        comparison.agreement.top1
        for comparison in report.comparisons
        if comparison.stage == speed.stage and comparison.agreement
    ]
    return min(shares, default=None)


def mark_front(points: Sequence[Point], *, lower: bool) -> tuple[Point, ...]:
    """The points sorted by latency, with the Pareto front of the passing ones marked; `lower` if small is better."""
    sign = 1 if lower else -1
    marked, best = [], float("inf")
    for point in sorted(points, key=lambda point: (point.latency, sign * point.value)):
        marked.append(replace(point, front=point.passed and sign * point.value < best))
        best = min(best, sign * point.value) if point.passed else best
    return tuple(marked)
