"""Records the state of the machine during a benchmark, and decides whether it was even enough to compare times."""

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
_MAX_EXCESS_CORES = 0.25  # that other programs may use beyond the free ones
_MAX_DRIFT = 1.15  # of the reference time, last third of the rounds over first, or the other way round
_MAX_SPREAD = 1.5  # of the reference time, 90th percentile over median
_TICKS_PER_SECOND = 100  # of the counters in /proc/stat
_IDLE_COLUMNS = (3, 4)  # of /proc/stat: idle, and waiting for a disk
_GUEST_COLUMN = 8  # the columns from here on count guests, which the others include
_SMI_FIELDS = "clocks.sm,clocks.max.sm,clocks_throttle_reasons.active,temperature.gpu"


@dataclass(frozen=True)
class Snapshot:
    """The counters of the machine: wall time, processor time of this process and of all processors, all in seconds.

    `mhz` is the mean processor clock and `gpu` the line of nvidia-smi.
    """

    wall: float
    own: float
    busy: float | None
    mhz: float | None
    gpu: str


@dataclass(frozen=True)
class Conditions:
    """The state of the machine during a benchmark; `uneven` is the reason why no verdict is possible, if there is one.

    `load` is the load average of the last minute, `others` the number of cores that other programs used,
    `reference_ms` the median time of a fixed piece of work that is timed in every round, `spread` its 90th percentile
    over that median, and `drift` its median in the last third of the rounds over that in the first. `mhz` and `gpu`
    (current and maximum clock, throttle reasons, °C) hold the values before and after, where they are available.
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
    """The timing series of every call, as `time_interleaved` returns them, and the conditions during the benchmark.

    `threads` is the number of threads that each call may use.
    """
    before = take_snapshot()
    timings = interleave.time_interleaved(
        {_REFERENCE: reference_work(), **calls},
        seconds,
        warm_up_seconds=warm_up_seconds,
        most=most,
        clocks=clocks,
        watch=watch,
    )
    conditions = assess(before, take_snapshot(), timings.pop(_REFERENCE), threads, os.cpu_count() or 1)
    return timings, conditions


def reference_work() -> Callable[[], object]:
    """About a millisecond of work on one thread, independent of memory speed and of thread pools."""
    values = np.linspace(1, 2, 1 << 13)

    def work() -> None:
        for _ in range(24):
            np.exp(values)

    return work


def take_snapshot() -> Snapshot:
    """The current counters; None or empty where they are not available."""
    return Snapshot(time.perf_counter(), time.process_time(), _busy_seconds(), _mean_mhz(), _gpu_state())


def assess(before: Snapshot, after: Snapshot, series: TimingSeries, threads: int, cores: int) -> Conditions:
    """The conditions between two snapshots; `series` is the timing series of the reference work."""
    others, wall = _other_cores(before, after), series.wall_ms
    third = max(len(wall) // 3, 1)
    median = float(np.median(wall))
    drift = float(np.median(wall[-third:]) / np.median(wall[:third]))
    spread = float(np.percentile(wall, 90)) / median
    return Conditions(
        threads=threads,
        cores=cores,
        load=os.getloadavg()[0],
        others=others,
        reference_ms=median,
        spread=spread,
        drift=drift,
        mhz=tuple(snapshot.mhz for snapshot in (before, after) if snapshot.mhz is not None),
        gpu=tuple(snapshot.gpu for snapshot in (before, after) if snapshot.gpu),
        uneven=_why_uneven(others, threads, cores, spread, drift),
    )


def _other_cores(before: Snapshot, after: Snapshot) -> float | None:
    """The mean number of cores that other programs used; None where it is not known."""
    if before.busy is None or after.busy is None or after.wall <= before.wall:
        return None
    return max(after.busy - before.busy - (after.own - before.own), 0.0) / (after.wall - before.wall)


def _why_uneven(others: float | None, threads: int, cores: int, spread: float, drift: float) -> str | None:
    if others is not None and others + threads > cores + _MAX_EXCESS_CORES:
        return f"other programs took {others:.1f} of {cores} cores"
    if not 1 / _MAX_DRIFT <= drift <= _MAX_DRIFT:
        return f"{_REFERENCE} took {drift:.2f} times as long at the end as at the beginning"
    if spread > _MAX_SPREAD:
        return f"{_REFERENCE} took {spread:.1f} times its median in a tenth of the rounds"
    return None


def _busy_seconds() -> float | None:
    """Seconds that all processors were busy since boot, including the time that a hypervisor took."""
    try:
        columns = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1 : _GUEST_COLUMN + 1]
    except (OSError, IndexError):
        return None
    return sum(int(ticks) for column, ticks in enumerate(columns) if column not in _IDLE_COLUMNS) / _TICKS_PER_SECOND


def _mean_mhz() -> float | None:
    """The mean clock of the processors; None where it is not available."""
    files = sorted(Path("/sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_cur_freq"))
    try:
        return float(np.mean([int(file.read_text(encoding="ascii")) for file in files])) / 1000 if files else None
    except (OSError, ValueError):
        return None


def _gpu_state() -> str:
    """Clocks, throttle reasons and temperature of the first GPU, from nvidia-smi; empty where there is none."""
    if not machine.gpus():
        return ""
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader"]
    try:
        return process.run_limited(command, what="nvidia-smi", seconds=10, gibibytes=float("inf")).strip()
    except (StageFailed, OSError):
        return ""
