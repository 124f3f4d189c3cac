"""The speed-up of one series of timings over another, with its 95 % confidence interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from deploytool.benchmark import interleave
from deploytool.benchmark.interleave import Clocks, Milliseconds

MIN_ROUNDS = interleave.MIN_ROUNDS
_RESAMPLES = 2000
_MAX_AUTOCORRELATION = 0.9  # with more, no number of rounds would suffice


@dataclass(frozen=True)
class Ratio:
    """A speed-up: the ratio of two medians with the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def time_by_wall_clock(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Milliseconds]:
    """The wall time of every call in every round, in milliseconds, for about `seconds` in all."""
    clocks = Clocks(wall=clock, queued=lambda: 0.0)
    timings = interleave.time_interleaved(calls, seconds, clocks=clocks, watch=watch)
    return {name: series.wall_ms for name, series in timings.items()}


def ratio(slow: Milliseconds, fast: Milliseconds, seed: int = 0) -> Ratio:
    """The median of `slow` over the median of `fast`, two series of the same rounds.

    The interval is a percentile bootstrap over whole rounds, so that a disturbance of both series in one round stays
    paired. Autocorrelated rounds contain less information than independent ones, so the interval is widened for them.
    """
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, len(slow), (_RESAMPLES, len(slow)))
    ratios = np.median(slow[samples], axis=1) / np.median(fast[samples], axis=1)
    value, bounds = float(np.median(slow) / np.median(fast)), np.percentile(ratios, (2.5, 97.5))
    correlation = _autocorrelation(np.log(slow) - np.log(fast))
    low, high = value * (bounds / value) ** np.sqrt((1 + correlation) / (1 - correlation))
    return Ratio(value, float(low), float(high))


def _autocorrelation(series: Milliseconds) -> float:
    """The lag-1 rank autocorrelation, corrected for its bias and at least 0; ranks limit the influence of outliers."""
    ranks = np.unique(series, return_inverse=True)[1].astype(np.float64)
    ranks -= ranks.mean()
    power = float((ranks * ranks).sum())
    if power == 0:
        return 0.0
    correlation = float((ranks[1:] * ranks[:-1]).sum()) / power
    return float(np.clip(correlation + (1 + 3 * correlation) / len(series), 0, _MAX_AUTOCORRELATION))
