"""What `deploytool bench` left in a run's bench.json, as far as it can be compared: percentiles, and speed-ups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploytool import files, plain
from deploytool.difference import Value

FILE, SCHEMA = "bench.json", "deploytool.bench/1"
_LONGEST = 64 << 20  # bytes
_EAGER = "eager"  # the baseline that a report's speed-ups are against

Figure = tuple[str, str, Value]  # quantity, place, value


@dataclass(frozen=True)
class Latency:
    """Percentiles of the rounds, in milliseconds; the last is None where there were too few rounds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float | None


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the baseline, with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One way to run the model; a file is named in the room of its stage."""

    name: str
    file: str
    latency: Latency | None
    ratio: Ratio | None


@dataclass(frozen=True)
class Conditions:
    """Why the machine was too uneven for a verdict, None if it was not."""

    uneven: str | None


@dataclass(frozen=True)
class Sweep:
    """All ways at one batch."""

    batch: int
    conditions: Conditions
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Benched:
    """Who measured what: `files` gives the SHA-256 of every file."""

    machine: str
    threads: int
    baseline: str
    sweeps: tuple[Sweep, ...]
    files: dict[str, str]


def of_run(home: Path, machine: str) -> list[Figure]:
    """What was measured of the files that the run has now; nothing if nobody did, or of other files.

    `machine` is where the run itself was timed: another one is named in the place, so that the two never meet.
    """
    try:
        told = json.loads(files.read(home / FILE, _LONGEST)) if (home / FILE).is_file() else {}
        if told.get("schema") != SCHEMA:
            return []
        found = plain.decode(Benched, told)
        current = all(plain.file_digest(home / name) == sha256 for name, sha256 in found.files.items())
        return [figure for sweep in found.sweeps for figure in _swept(found, sweep, machine)] if current else []
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _swept(found: Benched, sweep: Sweep, machine: str) -> Iterator[Figure]:
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
