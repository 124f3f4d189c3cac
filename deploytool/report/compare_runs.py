"""Several runs side by side: a row each, and which of their artifacts nothing beats in both speed and fidelity."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from deploytool.host import disk
from deploytool.report import PAGE, rows, tiles
from deploytool.report.rows import NONE, Point
from deploytool.report.run_data import RunData
from deploytool.report.tiles import Tone
from deploytool.results.artifact import Kind
from deploytool.results.report import Report, Speed
from deploytool.spec import Stage

Measure = Callable[[Report, Speed], float | None]

_LEAST = 1e-9  # an error of nothing at all, on a logarithmic axis


@dataclass(frozen=True)
class Front:
    """Artifacts that can be compared: measured on one device at one batch."""

    device: str
    batch: int
    vertical: str
    logarithmic: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Row:
    """One run: its verdict, what it costs, and its best figures."""

    model: str
    link: str | None
    home: str
    verdict: str
    tone: Tone
    cells: tuple[str, ...]


@dataclass(frozen=True)
class RunComparison:
    """All runs, and the fronts with their numbers."""

    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    fronts: tuple[tuple[int, Front], ...]


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


def compare(runs: Sequence[RunData], beside: Path) -> RunComparison:
    """Runs side by side, in the order given; `beside` is the folder of the page, from which links begin."""
    named = list(zip(_names(runs), runs, strict=True))
    return RunComparison(
        tuple(_row(name, run, beside) for name, run in named), _COLUMNS, tuple(enumerate(_fronts(named)))
    )


def _names(runs: Sequence[RunData]) -> list[str]:
    """The model of each run, and its folder where two runs have one model."""
    models = [run.report.model for run in runs]
    return [run.home.name if models.count(model) > 1 else model for model, run in zip(models, runs, strict=True)]


def _row(name: str, run: RunData, beside: Path) -> Row:
    report, origin = run.report, run.origin
    counts = (NONE if count is None else f"{count / 1e6:,.1f} M" for count in (origin.parameters, origin.macs))
    half = run.bytes_of(Stage.FP16, Kind.GRAPH.value)
    timed = [speed for speed in report.speeds if speed.latency_ms is not None and _counts(report, speed)]
    best = min(timed, key=lambda speed: speed.latency_ms or 0.0, default=None)
    fast = (NONE, NONE, NONE) if best is None else (best.stage, f"{best.latency_ms:.2f} ms", f"{best.ratio:.2f}×")
    page = run.home / PAGE
    link = Path(os.path.relpath(page, beside)).as_posix() if page.is_file() else None
    cells = (*counts, NONE if half is None else disk.size(half), *_half(report), *fast)
    return Row(name, link, str(run.home), run.closing.verdict, tiles.tone(run.closing), cells)


def _counts(report: Report, speed: Speed) -> bool:
    """Whether a run may boast of an artifact: it is a graph or an engine, and holds."""
    return speed.stage is not Stage.TORCHSCRIPT and _holds(report, speed)


def _holds(report: Report, speed: Speed) -> bool:
    return not any(
        check.broken
        for comparison in report.comparisons
        if comparison.stage == speed.stage
        for check in comparison.checks
    )


def _half(report: Report) -> tuple[str, str]:
    """The largest error in FP16 and the same over the noise, and the agreement of classes."""
    found = [comparison for comparison in report.comparisons if comparison.stage is Stage.FP16 and comparison.checks]
    if not found:
        return (NONE, NONE)
    worst = max(found, key=lambda comparison: comparison.checks[-1].parity.max_error)
    largest = worst.checks[-1].parity.max_error
    same = min((comparison.agreement.top1 for comparison in found if comparison.agreement), default=None)
    noise = f" ({rows.times(largest / worst.noise)} noise)" if worst.noise else ""
    return (rows.error(largest) + noise, NONE if same is None else f"{same:.1%}")


def _fronts(runs: Sequence[tuple[str, RunData]]) -> list[Front]:
    """By error on every device and batch; by agreement too, where photographs were given and it is not the same."""
    found = []
    for (device, batch), group in groupby(sorted(runs, key=_where), key=_where):
        some = list(group)
        by_error = [point for name, run in some for point in _points(name, run, _largest)]
        found.append(Front(device, batch, "largest error against FP64", True, _front(by_error, lower=True)))
        by_class = [point for name, run in some if run.report.data for point in _points(name, run, _same)]
        if len({point.right for point in by_class}) > 1:
            found.append(Front(device, batch, "same class as the source", False, _front(by_class, lower=False)))
    return [front for front in found if front.points]


def _where(named: tuple[str, RunData]) -> tuple[str, int]:
    return named[1].report.device, named[1].report.batch


def _points(name: str, run: RunData, right: Measure) -> list[Point]:
    report = run.report
    timed = [(speed, right(report, speed)) for speed in report.speeds if speed.latency_ms is not None]
    return [
        Point(name, f"{name} {speed.stage}", speed.latency_ms or 0.0, value, _holds(report, speed), front=False)
        for speed, value in timed
        if value is not None
    ]


def _largest(report: Report, speed: Speed) -> float | None:
    """The largest error against FP64 of an artifact, however it was run."""
    found = [
        comparison.checks[-1].parity.max_error
        for comparison in report.comparisons
        if comparison.stage == speed.stage and comparison.checks
    ]
    return max([_LEAST, *found]) if found else None


def _same(report: Report, speed: Speed) -> float | None:
    found = [
        comparison.agreement.top1
        for comparison in report.comparisons
        if comparison.stage == speed.stage and comparison.agreement
    ]
    return min(found, default=None)


def _front(points: Sequence[Point], *, lower: bool) -> tuple[Point, ...]:
    """The points by latency, and of those that hold those marked that no other one beats or equals in both."""
    sign = 1 if lower else -1
    marked, best = [], float("inf")
    for point in sorted(points, key=lambda each: (each.latency, sign * each.right)):
        marked.append(replace(point, front=point.held and sign * point.right < best))
        best = min(best, sign * point.right) if point.held else best
    return tuple(marked)
