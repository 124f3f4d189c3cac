"""Runs callables in turn, round after round, and keeps what each call took by the clock and by the processor."""

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
_UNTIMED = 2  # rounds that come first, however long the warm-up
_NAP_SECONDS, _REST_SECONDS = 0.001, 0.1  # between two looks at who still works, and the end of looking
_LEAD_SECONDS = 0.005  # of a call again and again before it is timed: threads that woke on one processor part by then
_LONG_SECONDS = 0.03  # a call that takes longer is little moved by how it began
_TASKS = Path("/proc/self/task")


def queued_seconds() -> float:
    """Seconds that threads of this process were able to run and waited for a processor; 0 where Linux does not say."""
    waited = 0
    with suppress(OSError):
        for task in os.listdir(_TASKS):  # noqa: PTH208  # read twice around each call: no objects
            with suppress(OSError, IndexError):  # a thread may end meanwhile
                waited += int((_TASKS / task / "schedstat").read_bytes().split()[1])
    return waited / 1e9


def wait_for_idle_threads() -> None:
    """Waits until no other thread of this process works: some spin for a while where they have nothing to do.

    How long is a matter of library and processor: 7.5 ms for torch's OpenMP threads on an AMD EPYC.
    """
    end = time.perf_counter() + _REST_SECONDS
    time.sleep(_NAP_SECONDS)
    while _others_work() and time.perf_counter() < end:
        time.sleep(_NAP_SECONDS)


def _others_work() -> bool:
    """Whether another thread of this process runs, or waits for a processor; False where Linux does not say."""
    with suppress(OSError):
        others = (task for task in os.listdir(_TASKS) if int(task) != threading.get_native_id())  # noqa: PTH208
        return any(_state(task) == b"R" for task in others)
    return False


def _state(task: str) -> bytes:
    """The letter that Linux has for what a thread does."""
    with suppress(OSError):  # it may have ended meanwhile
        return (_TASKS / task / "stat").read_bytes().rpartition(b")")[2].split()[0]
    return b""


@dataclass(frozen=True)
class Clocks:
    """Seconds: by the wall, of processor time of all threads of this process, and that these waited for a processor.

    `wait_for_idle_threads` lets the threads of one call come to rest before the next call, which would otherwise have
    to wait for their processors.
    """

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    queued: Callable[[], float] = queued_seconds
    rest: Callable[[], None] = wait_for_idle_threads


@dataclass(frozen=True)
class TimingSeries:
    """What one callable took in every round, in milliseconds by each of the clocks."""

    wall_ms: Milliseconds
    cpu_ms: Milliseconds
    queued_ms: Milliseconds


def _unwatched(done: int, total: int) -> None:
    """The watcher of rounds that nobody watches."""


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    warm_up_seconds: float = 0.0,
    most: int = MAX_ROUNDS,
    clocks: Clocks = Clocks(),  # frozen
    watch: Callable[[int, int], None] = _unwatched,
) -> dict[str, TimingSeries]:
    """The series of every call, in rounds that take about `seconds` in all, after untimed ones for the warm-up.

    Each round times every call once, in an order that turns on and runs backwards every other time: so a drift of the
    machine's speed meets all alike, and none always follows the same rival. A short call is timed in the stride of
    untimed ones of its own: else what a rival left, caches and sleeping threads, would weigh as much as its work.
    """
    names = list(calls)
    alone, resting = _warm_up(calls, warm_up_seconds, clocks)
    leads = [math.ceil(_LEAD_SECONDS / each) if 0 < each < _LONG_SECONDS else 0 for each in alone]
    whole = resting + sum((lead + 1) * each for lead, each in zip(leads, alone, strict=True))
    rounds = int(np.clip(seconds / max(whole, 1e-9), MIN_ROUNDS, most))
    taken = np.empty((len(names), 3, rounds))
    for turn in range(rounds):
        order = np.roll(np.arange(len(names)), -(turn // 2))
        for place in np.roll(order[::-1], len(names) // 2) if turn % 2 else order:
            taken[place, :, turn] = _timed(calls[names[place]], leads[place], clocks)
        watch(turn + 1, rounds)
    return {name: TimingSeries(*each) for name, each in zip(names, taken, strict=True)}


def _warm_up(calls: Mapping[str, Callable[[], object]], seconds: float, clocks: Clocks) -> tuple[list[float], float]:
    """Untimed rounds for that long, two at the least; of the last one the seconds of each call, and of all rests."""
    begun, rounds, alone, resting = clocks.wall(), 0, list[float](), 0.0
    while rounds < _UNTIMED or clocks.wall() - begun < seconds:
        before, alone = clocks.wall(), [_timed(call, 0, clocks)[0] / 1000 for call in calls.values()]
        whole = clocks.wall() - before
        rounds, resting = rounds + 1, whole - sum(alone)
        if whole <= 0:
            break  # a clock that stands still would never end the warm-up
    return alone, resting


def _timed(call: Callable[[], object], lead: int, clocks: Clocks) -> tuple[float, float, float]:
    """Milliseconds of one call after so many untimed ones; the wall clock is read last before it and first after it."""
    clocks.rest()
    for _ in range(lead):
        call()
    queue, cpu, wall = clocks.queued(), clocks.cpu(), clocks.wall()
    call()
    wall, cpu, queue = clocks.wall() - wall, clocks.cpu() - cpu, clocks.queued() - queue
    return wall * 1000, cpu * 1000, max(queue, 0.0) * 1000
