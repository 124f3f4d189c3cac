from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deploytool.benchmark import ratio
from deploytool.benchmark.interleave import Milliseconds
from tests.parity.pretended import Machine

Pair = tuple[Milliseconds, Milliseconds]


def test_known_clocks_give_the_known_ratio() -> None:
    machine = Machine()
    calls = {"slow": machine.work(0.030), "fast": machine.work(0.010)}
    taken = ratio.time_by_wall_clock(calls, seconds=1.0, clock=lambda: machine.wall)
    found = ratio.ratio(taken["slow"], taken["fast"])
    assert len(taken["slow"]) == 20
    assert taken["fast"][0] == pytest.approx(10)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


def test_a_machine_that_slows_down_slows_both_alike() -> None:
    machine = Machine()
    calls = {"slow": machine.work(0.020), "fast": machine.work(0.010)}

    def watch(done: int, total: int) -> None:
        machine.speed = 1 + 4 * done / total

    taken = ratio.time_by_wall_clock(calls, seconds=1.0, clock=lambda: machine.wall, watch=watch)
    found = ratio.ratio(taken["slow"], taken["fast"])
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


def skewed(rng: np.random.Generator, count: int) -> Pair:
    return rng.gamma(9, 1, count), rng.gamma(9, 1, count)


def spiked(rng: np.random.Generator, count: int) -> Pair:
    """A tenth of the rounds takes up to ten times as long."""
    both = 1 + 0.03 * rng.standard_normal((2, count))
    late = rng.random((2, count)) < 0.1
    both[late] *= rng.uniform(1.5, 10, late.sum())
    return both[0], both[1]


def lasting(rng: np.random.Generator, count: int) -> Pair:
    """What disturbs a round still disturbs the next ones."""
    both = np.empty((2, count))
    both[:, 0] = rng.standard_normal(2) / 0.8
    for turn in range(1, count):
        both[:, turn] = 0.6 * both[:, turn - 1] + rng.standard_normal(2)
    return np.exp(0.03 * both[0]), np.exp(0.03 * both[1])


def shared(rng: np.random.Generator, count: int) -> Pair:
    """What disturbs one disturbs the other in the same round."""
    noise = np.exp(0.2 * rng.standard_normal(count))
    return noise * (1 + 0.03 * rng.standard_normal(count)), noise * (1 + 0.03 * rng.standard_normal(count))


@pytest.mark.parametrize("count", [15, 60])
@pytest.mark.parametrize("drawn", [skewed, spiked, lasting, shared])
def test_the_interval_covers_the_truth_as_often_as_it_says(
    drawn: Callable[[np.random.Generator, int], Pair], count: int
) -> None:
    rng, trials, covered = np.random.default_rng(5), 300, 0
    for trial in range(trials):
        slow, fast = drawn(rng, count)
        found = ratio.ratio(2 * slow, fast, seed=trial)
        covered += found.low <= 2 <= found.high
    least = 0.87 if (drawn, count) == (lasting, 15) else 0.93  # of so few rounds nobody can tell how alike they are
    assert covered >= least * trials
