"""Times callables in turn, round by round, by the wall clock and by processor time."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Milliseconds = npt.NDArray[np.float64]

MIN_ROUNDS, MAX_ROUNDS = 7, 200
_MIN_WARM_UP_ROUNDS = 2  # before the timed rounds, however short the warm-up
_POLL_SECONDS, _REST_SECONDS = 0.001, 0.1  # of the check for running threads: its interval and its time limit
_LEAD_SECONDS = 0.005  # of untimed calls before a timed one: threads that share a processor separate within that time
_LONG_SECONDS = 0.03  # a call that takes longer hardly depends on the state it starts from
_TASKS = Path("/proc/self/task")


def queued_seconds() -> float:
    """Seconds that threads of this process were runnable but waited for a processor; 0 where Linux does not count."""
    nanoseconds = 0
    with suppress(OSError):
        for task in os.listdir(_TASKS):  # noqa: PTH208  # read twice around each call: no objects
            with suppress(OSError, IndexError):  # a thread may end meanwhile
                nanoseconds += int((_TASKS / task / "schedstat").read_bytes().split()[1])
    return nanoseconds / 1e9


def wait_for_idle_threads() -> None:
    """Waits until no other thread of this process runs: library threads spin for a while after their work.

    How long depends on the library and the processor: 7.5 ms for torch's OpenMP threads on an AMD EPYC.
    """
    end = time.perf_counter() + _REST_SECONDS
    time.sleep(_POLL_SECONDS)
    while _other_threads_run() and time.perf_counter() < end:
        time.sleep(_POLL_SECONDS)


def _other_threads_run() -> bool:
    """Whether another thread of this process runs or waits for a processor; False where Linux does not report it."""
    with suppress(OSError):
        others = (task for task in os.listdir(_TASKS) if int(task) != threading.get_native_id())  # noqa: PTH208
        return any(_thread_state(task) == b"R" for task in others)
    return False


def _thread_state(task: str) -> bytes:
    """The state letter of a thread in /proc; empty if the thread has ended."""
    with suppress(OSError):
        return (_TASKS / task / "stat").read_bytes().rpartition(b")")[2].split()[0]
    return b""


@dataclass(frozen=True)
class Clocks:
    """The clocks, all in seconds: wall time, processor time of all threads, and time they waited for a processor.

    `rest` waits for the threads of one call to become idle before the next call, which they would otherwise delay.
    """

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    queued: Callable[[], float] = queued_seconds
    rest: Callable[[], None] = wait_for_idle_threads


@dataclass(frozen=True)
class TimingSeries:
    """The time of one callable in every round, in milliseconds by each of the clocks."""

    wall_ms: Milliseconds
    cpu_ms: Milliseconds
    queued_ms: Milliseconds


def _ignore_progress(done: int, total: int) -> None:
    """The default `watch`."""


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    warm_up_seconds: float = 0.0,
    most: int = MAX_ROUNDS,
    clocks: Clocks = Clocks(),  # frozen
    watch: Callable[[int, int], None] = _ignore_progress,
) -> dict[str, TimingSeries]:
    """The timing series of every call, in rounds that take about `seconds` in all, after the warm-up.

    Each round times every call once. The order rotates and alternates direction, so that a drift of the machine's speed
    affects all calls alike and no call always follows the same other one. A short call is timed after untimed calls of
    its own: otherwise the caches and sleeping threads that another call left would weigh as much as its work.
    """
    names = list(calls)
    call_seconds, rest_seconds = _warm_up(calls, warm_up_seconds, clocks)
    leads = [math.ceil(_LEAD_SECONDS / each) if 0 < each < _LONG_SECONDS else 0 for each in call_seconds]
    round_seconds = rest_seconds + sum((lead + 1) * each for lead, each in zip(leads, call_seconds, strict=True))
    rounds = int(np.clip(seconds / max(round_seconds, 1e-9), MIN_ROUNDS, most))
    timings = np.empty((len(names), 3, rounds))
    for turn in range(rounds):
        order = np.roll(np.arange(len(names)), -(turn // 2))
        for index in np.roll(order[::-1], len(names) // 2) if turn % 2 else order:
            timings[index, :, turn] = _time_call(calls[names[index]], leads[index], clocks)
        watch(turn + 1, rounds)
    return {name: TimingSeries(*series) for name, series in zip(names, timings, strict=True)}


def _warm_up(calls: Mapping[str, Callable[[], object]], seconds: float, clocks: Clocks) -> tuple[list[float], float]:
    """Runs untimed rounds for that long, at least two.

    Returns, in seconds and for the last round, the time of each call and the time of all rests.
    """
    begin, rounds, call_seconds, rest_seconds = clocks.wall(), 0, list[float](), 0.0
    while rounds < _MIN_WARM_UP_ROUNDS or clocks.wall() - begin < seconds:
        before, call_seconds = clocks.wall(), [_time_call(call, 0, clocks)[0] / 1000 for call in calls.values()]
        round_seconds = clocks.wall() - before
        rounds, rest_seconds = rounds + 1, round_seconds - sum(call_seconds)
        if round_seconds <= 0:
            break  # a clock that does not advance would never end the warm-up
    return call_seconds, rest_seconds


def _time_call(call: Callable[[], object], lead: int, clocks: Clocks) -> tuple[float, float, float]:
    """Milliseconds of one call after `lead` untimed ones; the wall clock is the innermost of the three."""
    clocks.rest()
    for _ in range(lead):
        call()
    queued, cpu, wall = clocks.queued(), clocks.cpu(), clocks.wall()
    call()
    wall, cpu, queued = clocks.wall() - wall, clocks.cpu() - cpu, clocks.queued() - queued
    return wall * 1000, cpu * 1000, max(queued, 0.0) * 1000
