"""The speed-up of two series and the coverage of its confidence interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deploytool.benchmark import ratio
from deploytool.benchmark.interleave import Milliseconds
from tests.benchmark.simulated_machine import Machine

Pair = tuple[Milliseconds, Milliseconds]


def test_known_times_give_the_known_ratio() -> None:
    machine = Machine()
    calls = {"slow": machine.work(0.030), "fast": machine.work(0.010)}
    timings = ratio.time_by_wall_clock(calls, seconds=1.0, clock=lambda: machine.wall)
    speedup = ratio.ratio(timings["slow"], timings["fast"])
    assert len(timings["slow"]) == 20
    assert timings["fast"][0] == pytest.approx(10)
    assert (speedup.value, speedup.low, speedup.high) == pytest.approx((3, 3, 3))


def test_a_drift_of_the_machine_does_not_change_the_ratio() -> None:
    machine = Machine()
    calls = {"slow": machine.work(0.020), "fast": machine.work(0.010)}

    def watch(done: int, total: int) -> None:
        machine.speed = 1 + 4 * done / total

    timings = ratio.time_by_wall_clock(calls, seconds=1.0, clock=lambda: machine.wall, watch=watch)
    speedup = ratio.ratio(timings["slow"], timings["fast"])
    assert (speedup.value, speedup.low, speedup.high) == pytest.approx((2, 2, 2))


def skewed(rng: np.random.Generator, count: int) -> Pair:
    return rng.gamma(9, 1, count), rng.gamma(9, 1, count)


def spiked(rng: np.random.Generator, count: int) -> Pair:
    """A tenth of the rounds take up to ten times as long."""
    both = 1 + 0.03 * rng.standard_normal((2, count))
    outliers = rng.random((2, count)) < 0.1
    both[outliers] *= rng.uniform(1.5, 10, outliers.sum())
    return both[0], both[1]


def autocorrelated(rng: np.random.Generator, count: int) -> Pair:
    """A disturbance lasts for several rounds."""
    both = np.empty((2, count))
    both[:, 0] = rng.standard_normal(2) / 0.8
    for turn in range(1, count):
        both[:, turn] = 0.6 * both[:, turn - 1] + rng.standard_normal(2)
    return np.exp(0.03 * both[0]), np.exp(0.03 * both[1])


def correlated(rng: np.random.Generator, count: int) -> Pair:
    """A disturbance affects both calls of a round."""
    noise = np.exp(0.2 * rng.standard_normal(count))
    return noise * (1 + 0.03 * rng.standard_normal(count)), noise * (1 + 0.03 * rng.standard_normal(count))


@pytest.mark.parametrize("count", [15, 60])
@pytest.mark.parametrize("draw", [skewed, spiked, autocorrelated, correlated])
def test_the_interval_covers_the_true_ratio_as_often_as_it_states(
    draw: Callable[[np.random.Generator, int], Pair], count: int
) -> None:
    rng, trials, covered = np.random.default_rng(5), 300, 0
    for trial in range(trials):
        slow, fast = draw(rng, count)
        speedup = ratio.ratio(2 * slow, fast, seed=trial)
        covered += speedup.low <= 2 <= speedup.high
    few_rounds = (draw, count) == (autocorrelated, 15)  # too few to estimate the autocorrelation
    assert covered >= (0.87 if few_rounds else 0.93) * trials
