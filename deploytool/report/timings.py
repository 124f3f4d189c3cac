"""Speed figures of a page: speed-ups with intervals, latencies, and throughput by batch size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploytool.benchmark.result import Bench
from deploytool.report.rows import NONE, short
from deploytool.results import runners
from deploytool.results.report import Report
from deploytool.spec import SpeedVerdict, Status, state_text


@dataclass(frozen=True)
class Bar:
    """A speed-up with the bounds of its 95 % interval."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """Latencies in milliseconds under one label."""

    label: str
    values: tuple[float, ...]


def bars(report: Report) -> list[Bar]:
    """The measured speed-ups that have a verdict."""
    return [
        Bar(short(speed), speed.ratio, speed.low, speed.high)
        for speed in report.speeds
        if speed.ratio is not None
        and speed.low is not None
        and speed.high is not None
        and not has_no_verdict(speed.verdict)
    ]


def has_no_verdict(verdict: SpeedVerdict | None) -> bool:
    """Whether the machine was too uneven to compare latencies."""
    return verdict is SpeedVerdict.NO_VERDICT


def speed_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """One row for each artifact: name, latency, latency of the baseline, speed-up, interval, status."""
    failed = {comparison.stage for comparison in report.comparisons for check in comparison.checks if check.broken}
    for speed in report.speeds:
        name = runners.artifact(speed.stage, speed.file, speed.runner)
        if speed.ratio is None:
            yield (name, NONE, NONE, NONE, NONE, state_text(speed.status, speed.reason))
            continue
        status = state_text(speed.verdict or Status.MEASURED, speed.reason)
        if speed.stage in failed:
            status += ", but fails its checks"
        measured = (f"{speed.ratio:.2f}×", f"{speed.low:.2f}–{speed.high:.2f}")
        ratio, interval = (NONE, NONE) if has_no_verdict(speed.verdict) else measured
        yield (name, f"{speed.latency_ms:.2f} ms", f"{speed.baseline_ms:.2f} ms", ratio, interval, status)


def distributions(bench: Bench) -> tuple[int, list[Series]]:
    """The smallest batch size, and the latencies of everything that was timed at it."""
    smallest = min(bench.sweeps, key=lambda sweep: sweep.batch)
    return smallest.batch, [Series(row.name, row.latency.wall_ms) for row in smallest.rows if row.latency]


def rates(bench: Bench) -> list[tuple[str, list[tuple[int, float]]]]:
    """By name, batch sizes with the throughput in samples per second at the median latency."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for sweep in sorted(bench.sweeps, key=lambda sweep: sweep.batch):
        for row in sweep.rows:
            if row.latency:
                rate = 1000 * sweep.batch / row.latency.p50_ms
                lines.setdefault(row.name, []).append((sweep.batch, rate))
    return list(lines.items())


def bench_rows(bench: Bench) -> Iterator[tuple[str, ...]]:
    """One row for each artifact at each batch size: batch, name, runner, p50, p90, p99, speed-up, verdict."""
    for sweep in bench.sweeps:
        for row in sweep.rows:
            if (latency := row.latency) is None:
                continue
            p99 = NONE if latency.p99_ms is None else f"{latency.p99_ms:.2f}"
            cells = (str(sweep.batch), row.name, row.runner, f"{latency.p50_ms:.2f}", f"{latency.p90_ms:.2f}", p99)
            ratio = NONE
            if row.ratio and not has_no_verdict(row.verdict):
                ratio = f"{row.ratio.value:.2f}× ({row.ratio.low:.2f}–{row.ratio.high:.2f})"
            yield (*cells, ratio, state_text(row.verdict, row.reason) if row.verdict else "the baseline")
