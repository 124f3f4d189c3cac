"""Decides which of two timed sessions is faster, unless the spread or the machine allows no verdict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.ratio import Ratio
from deploytool.spec import GateOutcome, SpeedVerdict

MIN_DIFFERENCE = 0.02  # two sessions of one file may differ by this much, because of their memory layout
_MAX_QUEUED = 0.2  # share of a call's time that each of its threads may wait for a processor
_MIN_CPU = 0.85  # share of a call's time in which at least one of its threads must run
_MAX_DELAYED_ROUNDS = 0.25  # share of the rounds: fewer delayed rounds do not move a median


def waiting_share(series: TimingSeries, threads: int, *, on_cpu: bool = True) -> float:
    """The share of rounds in which a call did not get the processors it could have used.

    In such a round its threads waited for a processor, or used less processor time than one thread needs to fill the
    time that the call took; the second rule holds for work on a CPU only (`on_cpu`). A median over many such rounds
    measures the load of the machine, not the call.
    """
    delayed = series.queued_ms > _MAX_QUEUED * threads * series.wall_ms
    if on_cpu:
        delayed |= series.cpu_ms < _MIN_CPU * series.wall_ms
    return float(np.mean(delayed))


def most_delayed(timings: Mapping[str, TimingSeries], threads: int, *, on_cpu: bool = True) -> str | None:
    """A sentence on the call that waited for a processor most, if it waited too often for a median; else None."""
    shares = {name: waiting_share(series, threads, on_cpu=on_cpu) for name, series in timings.items()}
    worst = max(shares, key=lambda name: shares[name])
    if shares[worst] <= _MAX_DELAYED_ROUNDS:
        return None
    return f"{worst} waited for a processor in {shares[worst]:.0%} of its rounds"


def verdict(
    ratio: Ratio,
    baseline: tuple[str, TimingSeries],
    rival: tuple[str, TimingSeries],
    *,
    threads: int,
    uneven: str | None = None,
    noise: float = MIN_DIFFERENCE,
    on_cpu: bool = True,
) -> tuple[SpeedVerdict, str]:
    """The verdict on `rival` against `baseline`, and the reason where there is none.

    `ratio` is the speed-up of `rival`; `uneven` says why the conditions allow no verdict, if they do not. A difference
    is significant if the interval excludes 1 and the ratio is further from 1 than `noise`.
    """
    why = uneven or most_delayed(dict((baseline, rival)), threads, on_cpu=on_cpu)
    if why:
        return SpeedVerdict.NO_VERDICT, f"the machine was too uneven: {why}"
    if ratio.low > 1 and ratio.value > 1 + noise:
        return SpeedVerdict.FASTER, ""
    if ratio.high < 1 and ratio.value < 1 / (1 + noise):
        return SpeedVerdict.SLOWER, ""
    return SpeedVerdict.NEITHER, ""


def gate_outcome(threshold: float, ratio: Ratio, verdict: SpeedVerdict) -> GateOutcome:
    """Whether a ratio reaches or misses a threshold with 95 % confidence; open if neither is certain."""
    if verdict is SpeedVerdict.NO_VERDICT:
        return GateOutcome.OPEN
    if ratio.low >= threshold:
        return GateOutcome.REACHED
    return GateOutcome.MISSED if ratio.high < threshold else GateOutcome.OPEN
