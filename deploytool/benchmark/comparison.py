"""Says in words which of two is faster, and says nothing where the spread or the machine does not allow it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.ratio import Ratio
from deploytool.spec import GateOutcome, SpeedVerdict

MIN_DIFFERENCE = 0.02  # two sessions of one file may differ by so much, by where they lie in memory
_QUEUED = 0.2  # of a call's time that each of its threads waited for a processor
_OWED = 0.85  # of a call's time, at the least, that some thread of it must have been running
_HELD_UP = 0.25  # of the rounds: fewer do not move a median


def waiting_share(series: TimingSeries, threads: int, *, on_cpu: bool = True) -> float:
    """The share of rounds in which a call did not get the processors it was ready to use.

    It waited for one, or got less processor time than one thread needs to fill the time it took; a call that has its
    work done on a GPU may rest (`on_cpu` False). A median over such rounds says how busy the machine was.
    """
    late = series.queued_ms > _QUEUED * threads * series.wall_ms
    if on_cpu:
        late |= series.cpu_ms < _OWED * series.wall_ms
    return float(np.mean(late))


def most_delayed(taken: Mapping[str, TimingSeries], threads: int, *, on_cpu: bool = True) -> str | None:
    """Who had to wait for a processor so often that a median says nothing, if anybody had."""
    late = {name: waiting_share(series, threads, on_cpu=on_cpu) for name, series in taken.items()}
    worst = max(late, key=lambda name: late[name])
    return f"{worst} waited for a processor in {late[worst]:.0%} of its rounds" if late[worst] > _HELD_UP else None


def verdict(
    found: Ratio,
    baseline: tuple[str, TimingSeries],
    rival: tuple[str, TimingSeries],
    *,
    threads: int,
    uneven: str | None = None,
    noise: float = MIN_DIFFERENCE,
    on_cpu: bool = True,
) -> tuple[SpeedVerdict, str]:
    """The verdict of `rival` beside `baseline`, and why there is none where there is none.

    `found` is their ratio, `uneven` what the conditions say against every ratio of the run; one is significant if its
    interval leaves 1 out and it is further from 1 than `noise`.
    """
    why = uneven or most_delayed(dict((baseline, rival)), threads, on_cpu=on_cpu)
    if why:
        return SpeedVerdict.NO_VERDICT, f"the machine was too uneven: {why}"
    if found.low > 1 and found.value > 1 + noise:
        return SpeedVerdict.FASTER, ""
    if found.high < 1 and found.value < 1 / (1 + noise):
        return SpeedVerdict.SLOWER, ""
    return SpeedVerdict.NEITHER, ""


def gate_outcome(threshold: float, found: Ratio, said: SpeedVerdict) -> GateOutcome:
    """Whether a ratio with that verdict reaches or misses a threshold with 95 % confidence; open if neither is sure."""
    if said is SpeedVerdict.NO_VERDICT:
        return GateOutcome.OPEN
    if found.low >= threshold:
        return GateOutcome.REACHED
    return GateOutcome.MISSED if found.high < threshold else GateOutcome.OPEN
