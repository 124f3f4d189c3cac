"""What `deploytool bench` left in a run's bench.json, as far as it can be compared: percentiles, and speed-ups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deploytool.benchmark import result
from deploytool.benchmark.result import BatchResult, Bench
from deploytool.diff import Value

_EAGER = "eager"  # the baseline that a report's speed-ups are against

Figure = tuple[str, str, Value]  # quantity, place, value


def of_run(home: Path, machine: str) -> list[Figure]:
    """What was measured of the files that the run has now; nothing if nobody did, or of other files.

    `machine` is where the run itself was timed: another one is named in the place, so that the two never meet.
    """
    found = result.read_matching(home)
    return [figure for sweep in found.sweeps for figure in _swept(found, sweep, machine)] if found else []


def _swept(found: Bench, sweep: BatchResult, machine: str) -> Iterator[Figure]:
    where = f"batch {sweep.batch}, {found.threads} threads" + ("" if found.machine == machine else f", {found.machine}")
    for row in sweep.rows:
        place = f"{row.name if row.file in row.name else f'{row.name}/{row.file}'} at {where}"
        if row.latency is None:
            continue
        for quantity in ("p50", "p90", "p99"):
            if (value := getattr(row.latency, f"{quantity}_ms")) is not None:
                yield quantity, place, Value(float(value))
        if row.ratio and found.baseline == _EAGER and not sweep.conditions.uneven:
            yield "speedup", place, Value(row.ratio.value, row.ratio.low, row.ratio.high)
