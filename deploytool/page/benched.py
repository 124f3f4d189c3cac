"""What `deploytool bench` measured of a run, as far as a page shows it: latencies, and what a batch costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILE = "bench.json"


@dataclass(frozen=True)
class Series:
    """One artifact at one batch: its latencies in milliseconds, in the order they were measured."""

    name: str
    batch: int
    milliseconds: tuple[float, ...]


@dataclass(frozen=True)
class Benched:
    """What was measured, and on what."""

    device: str
    series: tuple[Series, ...]


def read(home: Path) -> Benched | None:
    """What was measured of the files that lie there now; None if nobody measured, or measured other files."""
    return None if not (home / FILE).is_file() else None
