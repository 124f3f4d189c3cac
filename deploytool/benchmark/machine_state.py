"""Watches the machine while something is timed on it, and says whether it was even enough to compare by the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploytool.benchmark import interleave
from deploytool.benchmark.interleave import MAX_ROUNDS, Clocks, TimingSeries
from deploytool.errors import StageFailed
from deploytool.host import machine, process

_REFERENCE = "a fixed piece of work"
_ROOM = 0.25  # of a core that others may take beyond what is free
_DRIFT = 1.15  # times as long at the end as at the beginning, or the other way round
_SPREAD = 1.5  # nine of ten rounds within so many times the median
_TICKS = 100  # a second, in which Linux counts
_IDLE = (3, 4)  # columns of /proc/stat: idle, and waiting for a disk
_ELSEWHERE = 8  # columns from here on count guests, which stand in the others already
_SMI = "clocks.sm,clocks.max.sm,clocks_throttle_reasons.active,temperature.gpu"


@dataclass(frozen=True)
class Snapshot:
    """Where the counters of the machine stand: seconds by the wall, of this process, and of all processors together."""

    wall: float
    own: float
    busy: float | None
    mhz: float | None
    gpu: str


@dataclass(frozen=True)
class Conditions:
    """What the machine did while something was timed, and why that was too uneven, if it was.

    `load` is the load average of the last minute, `others` how many cores other programs took, `reference_ms` the
    median time of a fixed piece of work that was timed in every round, `spread` its 90th percentile over that, and
    `drift` its last third over its first. `mhz` and `gpu` (clock now and at most, throttle reasons, °C) stand for
    before and after, where the machine tells.
    """

    threads: int
    cores: int
    load: float
    others: float | None
    reference_ms: float
    spread: float
    drift: float
    mhz: tuple[float, ...]
    gpu: tuple[str, ...]
    uneven: str | None


def time_watched(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    threads: int,
    *,
    warm_up_seconds: float = 0.0,
    most: int = MAX_ROUNDS,
    clocks: Clocks = Clocks(),  # noqa: B008  # frozen
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, TimingSeries], Conditions]:
    """The series of every call as `rounds.record` makes them, and what the machine did meanwhile.

    `threads` is how many each call may use.
    """
    before = take_snapshot()
    taken = interleave.time_interleaved(
        {_REFERENCE: reference_work(), **calls},
        seconds,
        warm_up_seconds=warm_up_seconds,
        most=most,
        clocks=clocks,
        watch=watch,
    )
    found = assess(before, take_snapshot(), taken.pop(_REFERENCE), threads, os.cpu_count() or 1)
    return taken, found


def reference_work() -> Callable[[], object]:
    """A fixed piece of work for one thread, about a millisecond that neither memory nor a library's pool decides."""
    values = np.linspace(1, 2, 1 << 13)

    def work() -> None:
        for _ in range(24):
            np.exp(values)

    return work


def take_snapshot() -> Snapshot:
    """The counters now; None or empty where the machine has none."""
    return Snapshot(time.perf_counter(), time.process_time(), _busy(), _mhz(), _gpu())


def assess(before: Snapshot, after: Snapshot, series: TimingSeries, threads: int, cores: int) -> Conditions:
    """The conditions between two snapshots; `series` is that of the fixed piece of work."""
    others, taken = _others(before, after), series.wall_ms
    third = max(len(taken) // 3, 1)
    median = float(np.median(taken))
    drift = float(np.median(taken[-third:]) / np.median(taken[:third]))
    spread = float(np.percentile(taken, 90)) / median
    return Conditions(
        threads=threads,
        cores=cores,
        load=os.getloadavg()[0],
        others=others,
        reference_ms=median,
        spread=spread,
        drift=drift,
        mhz=tuple(each.mhz for each in (before, after) if each.mhz is not None),
        gpu=tuple(each.gpu for each in (before, after) if each.gpu),
        uneven=_uneven(others, threads, cores, spread, drift),
    )


def _others(before: Snapshot, after: Snapshot) -> float | None:
    if before.busy is None or after.busy is None or after.wall <= before.wall:
        return None
    return max(after.busy - before.busy - (after.own - before.own), 0.0) / (after.wall - before.wall)


def _uneven(others: float | None, threads: int, cores: int, spread: float, drift: float) -> str | None:
    if others is not None and others + threads > cores + _ROOM:
        return f"other programs took {others:.1f} of {cores} cores"
    if not 1 / _DRIFT <= drift <= _DRIFT:
        return f"{_REFERENCE} took {drift:.2f} times as long at the end as at the beginning"
    if spread > _SPREAD:
        return f"{_REFERENCE} took {spread:.1f} times its median in a tenth of the rounds"
    return None


def _busy() -> float | None:
    """Seconds that all processors have worked since the start, what a hypervisor took from them included."""
    try:
        counted = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1 : _ELSEWHERE + 1]
    except (OSError, IndexError):
        return None
    return sum(int(ticks) for column, ticks in enumerate(counted) if column not in _IDLE) / _TICKS


def _mhz() -> float | None:
    """The mean clock of the processors."""
    files = sorted(Path("/sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_cur_freq"))
    try:
        return float(np.mean([int(file.read_text(encoding="ascii")) for file in files])) / 1000 if files else None
    except (OSError, ValueError):
        return None


def _gpu() -> str:
    """What nvidia-smi says of the first GPU's clocks; empty where there is none."""
    if not machine.gpus():
        return ""
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={_SMI}", "--format=csv,noheader"]
    try:
        return process.run_limited(command, what="nvidia-smi", seconds=10, gibibytes=float("inf")).strip()
    except (StageFailed, OSError):
        return ""
