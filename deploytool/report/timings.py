"""What a page shows of speed: ratios with their intervals, latencies, and what a batch costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploytool.benchmark.result import Bench
from deploytool.report.rows import NONE, short
from deploytool.results.report import Report
from deploytool.spec import SpeedVerdict, Status, spoken


@dataclass(frozen=True)
class Bar:
    """A speed-up and its interval."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """Values under one label."""

    label: str
    values: tuple[float, ...]


def bars(report: Report) -> list[Bar]:
    """The speed-ups that were measured, and of which something may be said."""
    return [
        Bar(short(speed), speed.ratio, speed.low, speed.high)
        for speed in report.speeds
        if speed.ratio is not None and speed.low is not None and speed.high is not None and not refused(speed.verdict)
    ]


def refused(verdict: SpeedVerdict | None) -> bool:
    """Whether a comparison by the clock would say more of the machine than of what was compared."""
    return verdict is SpeedVerdict.NO_VERDICT


def speeds(report: Report) -> Iterator[tuple[str, ...]]:
    """A row for each artifact that was, or was to be, timed."""
    wrong = {comparison.stage for comparison in report.comparisons for check in comparison.checks if check.broken}
    for speed in report.speeds:
        name = f"{speed.stage}/{speed.file}"
        if speed.ratio is None:
            yield (name, NONE, NONE, NONE, NONE, spoken(speed.status, speed.reason))
            continue
        fails = ", but fails its checks" if speed.stage in wrong else ""
        said = spoken(speed.verdict or Status.MEASURED, speed.reason) + fails
        found = (f"{speed.ratio:.2f}×", f"{speed.low:.2f}–{speed.high:.2f}")
        shown = (NONE, NONE) if refused(speed.verdict) else found
        yield (name, f"{speed.latency_ms:.2f} ms", f"{speed.eager_ms:.2f} ms", *shown, said)


def distributions(found: Bench) -> tuple[int, list[Series]]:
    """The smallest batch, and every way's latencies at it."""
    least = min(found.sweeps, key=lambda each: each.batch)
    return least.batch, [Series(row.name, row.latency.wall_ms) for row in least.rows if row.latency]


def rates(found: Bench) -> list[tuple[str, list[tuple[int, float]]]]:
    """Images a second of every way at every batch, by the median."""
    told: dict[str, list[tuple[int, float]]] = {}
    for sweep in sorted(found.sweeps, key=lambda one: one.batch):
        for row in sweep.rows:
            if row.latency:
                told.setdefault(row.name, []).append((sweep.batch, 1000 * sweep.batch / row.latency.p50_ms))
    return list(told.items())


def benched(found: Bench) -> Iterator[tuple[str, ...]]:
    """A row for each way at each batch."""
    for sweep in found.sweeps:
        for row in sweep.rows:
            if (timed := row.latency) is None:
                continue
            last = NONE if timed.p99_ms is None else f"{timed.p99_ms:.2f}"
            cells = (str(sweep.batch), row.name, row.runner, f"{timed.p50_ms:.2f}", f"{timed.p90_ms:.2f}", last)
            ratio = NONE
            if row.ratio and not refused(row.verdict):
                ratio = f"{row.ratio.value:.2f}× ({row.ratio.low:.2f}–{row.ratio.high:.2f})"
            yield (*cells, ratio, spoken(row.verdict, row.reason) if row.verdict else "the baseline")
