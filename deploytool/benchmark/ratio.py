"""Times callables in turn in one process, and says how sure the ratio of two is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from deploytool.benchmark import interleave as benchmark_interleave
from deploytool.benchmark.interleave import Clocks, Milliseconds

_RESAMPLES = 2000
_LONGEST = 0.9  # autocorrelation: with more, no number of rounds would do
MIN_ROUNDS = benchmark_interleave.MIN_ROUNDS


@dataclass(frozen=True)
class Ratio:
    """How many times faster: the ratio of medians with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def time_by_wall_clock(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Milliseconds]:
    """Milliseconds of every call in every round, for about `seconds` in all, by the wall clock alone."""
    clocks = Clocks(wall=clock, queued=lambda: 0.0)
    return {
        name: series.wall_ms
        for name, series in benchmark_interleave.time_interleaved(calls, seconds, clocks=clocks, watch=watch).items()
    }


def ratio(slow: Milliseconds, fast: Milliseconds, seed: int = 0) -> Ratio:
    """Median of `slow` over median of `fast`, two series of the same rounds.

    The interval is a percentile bootstrap that draws whole rounds, so that what disturbed both stays paired. Rounds
    that resemble the ones before tell less than as many independent ones: it widens as the root of that.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(slow), (_RESAMPLES, len(slow)))
    ratios = np.median(slow[drawn], axis=1) / np.median(fast[drawn], axis=1)
    value, ends = float(np.median(slow) / np.median(fast)), np.percentile(ratios, (2.5, 97.5))
    likeness = _likeness(np.log(slow) - np.log(fast))
    low, high = value * (ends / value) ** np.sqrt((1 + likeness) / (1 - likeness))
    return Ratio(value, float(low), float(high))


def _likeness(series: Milliseconds) -> float:
    """The autocorrelation of neighbours by rank, so that outliers count as one, and mended for its bias; at least 0."""
    ranks = np.unique(series, return_inverse=True)[1].astype(np.float64)
    ranks -= ranks.mean()
    power = float((ranks * ranks).sum())
    if power == 0:
        return 0.0
    found = float((ranks[1:] * ranks[:-1]).sum()) / power
    return float(np.clip(found + (1 + 3 * found) / len(series), 0, _LONGEST))
