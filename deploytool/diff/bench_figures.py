"""Figures of a run's bench.json: latency percentiles and speed-ups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deploytool.benchmark import result
from deploytool.benchmark.result import BatchResult, Bench
from deploytool.diff.compare import Value
from deploytool.results.report import Baseline

_ORIGINALS = tuple(Baseline)  # the baselines of the speed-ups in a report

Figure = tuple[str, str, Value]  # quantity, subject, value


def of_run(home: Path, machine: str) -> list[Figure]:
    """The benchmark of the present files of a run; empty if there is none, or it is of other files.

    If the benchmark ran on another machine than `machine` (that of the report), the subjects contain its name, so that
    they are never compared with those of the report.
    """
    bench = result.read_matching(home)
    return [figure for sweep in bench.sweeps for figure in _figures(bench, sweep, machine)] if bench else []


def _figures(bench: Bench, sweep: BatchResult, machine: str) -> Iterator[Figure]:
    suffix = "" if bench.machine == machine else f", {bench.machine}"
    conditions = f"batch {sweep.batch}, {bench.threads} threads{suffix}"
    for row in sweep.rows:
        name = row.name if row.file in row.name else f"{row.name}/{row.file}"
        subject = f"{name} at {conditions}"
        if row.latency is None:
            continue
        for quantity in ("p50", "p90", "p99"):
            if (latency_ms := getattr(row.latency, f"{quantity}_ms")) is not None:
                yield quantity, subject, Value(float(latency_ms))
        if row.ratio and bench.baseline in _ORIGINALS and not sweep.conditions.uneven:
            yield "speedup", subject, Value(row.ratio.value, row.ratio.low, row.ratio.high)
