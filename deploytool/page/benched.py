"""What `deploytool bench` measured of a run, as far as a page shows it: latencies, and what a batch costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploytool import receipt

FILE = "bench.json"


@dataclass(frozen=True)
class Timed:
    """One way to run the model at one batch; latencies in milliseconds, `wall_ms` every round of it in order."""

    name: str
    runner: str
    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    wall_ms: tuple[float, ...]
    ratio: tuple[float, float, float] | None
    verdict: str


@dataclass(frozen=True)
class Batch:
    """All ways at one batch; `uneven` is why the machine was not even enough to compare them, if it was not."""

    batch: int
    rounds: int
    uneven: str
    ways: tuple[Timed, ...]


@dataclass(frozen=True)
class Benched:
    """What was measured, on what, and beside what."""

    machine: str
    threads: int
    baseline: str
    batches: tuple[Batch, ...]


def read(home: Path) -> Benched | None:
    """What was measured of the files that the run now has; None if nobody measured, or measured other files."""
    try:
        told = json.loads((home / FILE).read_text(encoding="utf-8"))
        if any(_sealed(home, name) != digest for name, digest in told["files"].items()):
            return None
        batches = tuple(_batch(sweep) for sweep in told["sweeps"])
        return Benched(str(told["machine"]), int(told["threads"]), str(told["baseline"]), batches)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _sealed(home: Path, name: str) -> str | None:
    """The digest of a file of the run, as its stage sealed it."""
    room, _, file = name.partition("/")
    sealed = receipt.read(home / room)
    return sealed.files.get(file) if sealed else None


def _batch(sweep: Mapping[str, Any]) -> Batch:
    ways = tuple(_timed(row, row["latency"]) for row in sweep["rows"] if row["latency"])
    return Batch(int(sweep["batch"]), int(sweep["rounds"]), str(sweep["conditions"]["uneven"] or ""), ways)


def _timed(row: Mapping[str, Any], latency: Mapping[str, Any]) -> Timed:
    last = latency["p99_ms"]
    found = row["ratio"]
    return Timed(
        name=str(row["name"]),
        runner=str(row["runner"]),
        p50_ms=float(latency["p50_ms"]),
        p90_ms=float(latency["p90_ms"]),
        p99_ms=None if last is None else float(last),
        wall_ms=_numbers(latency["wall_ms"]),
        ratio=(float(found["value"]), float(found["low"]), float(found["high"])) if found else None,
        verdict=str(row["verdict"] or ""),
    )


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not numbers:
        raise ValueError("a series of nothing")
    return numbers
