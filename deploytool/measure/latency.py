"""Times callables in turn in one process, and says how sure the ratio of two is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Milliseconds = npt.NDArray[np.float64]

_RESAMPLES = 2000
FEWEST_ROUNDS, _MOST_ROUNDS = 7, 200


@dataclass(frozen=True)
class Ratio:
    """How many times faster: the ratio of medians with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def interleave(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Milliseconds]:
    """Milliseconds of every call in every round, for about `seconds` in all.

    Each round runs every call once, beginning with another one each time, so that a drift of the machine's speed
    meets all alike. Two untimed rounds come first; they also tell how many rounds fit.
    """
    names = list(calls)
    for _ in range(2):
        begun = clock()
        for name in names:
            calls[name]()
        round_seconds = clock() - begun
    rounds = int(np.clip(seconds / max(round_seconds, 1e-9), FEWEST_ROUNDS, _MOST_ROUNDS))
    taken = np.empty((len(names), rounds))
    for turn in range(rounds):
        for place in np.roll(np.arange(len(names)), -turn):
            begun = clock()
            calls[names[place]]()
            taken[place, turn] = (clock() - begun) * 1000
        watch(turn + 1, rounds)
    return dict(zip(names, taken, strict=True))


def ratio(slow: Milliseconds, fast: Milliseconds, seed: int = 0) -> Ratio:
    """Median of `slow` over median of `fast`, two series of the same rounds.

    The interval is a percentile bootstrap that draws whole rounds, so that what disturbed both stays paired.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(slow), (_RESAMPLES, len(slow)))
    ratios = np.median(slow[drawn], axis=1) / np.median(fast[drawn], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Ratio(float(np.median(slow) / np.median(fast)), float(low), float(high))
