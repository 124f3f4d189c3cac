from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deploytool.measure import latency


class Clock:
    """A clock that only the work it times moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.speed = 1.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds * self.speed

        return call


def test_known_clocks_give_the_known_ratio() -> None:
    clock = Clock()
    taken = latency.interleave({"slow": clock.work(0.030), "fast": clock.work(0.010)}, seconds=1.0, clock=clock)
    found = latency.ratio(taken["slow"], taken["fast"])
    assert len(taken["slow"]) == 25
    assert taken["fast"][0] == pytest.approx(10)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


def test_a_machine_that_slows_down_slows_both_alike() -> None:
    clock = Clock()
    calls = {"slow": clock.work(0.020), "fast": clock.work(0.010)}

    def watch(done: int, total: int) -> None:
        clock.speed = 1 + 4 * done / total

    taken = latency.interleave(calls, seconds=1.0, clock=clock, watch=watch)
    found = latency.ratio(taken["slow"], taken["fast"])
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


def test_every_round_begins_with_another_call() -> None:
    order: list[str] = []
    names = ("a", "b", "c")
    calls = {name: (lambda name=name: order.append(name)) for name in names}
    latency.interleave(calls, seconds=0.0)
    rounds = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert len(rounds) == 2 + 7
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert {turn[0] for turn in rounds[2:]} == {"a", "b", "c"}


def test_a_noisy_pair_of_equals_includes_one() -> None:
    rng = np.random.default_rng(1)
    found = latency.ratio(rng.gamma(4, 1, 50), rng.gamma(4, 1, 50))
    assert found.low < 1 < found.high


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        found = latency.ratio(2 * rng.gamma(9, 1, 40), rng.gamma(9, 1, 40), seed=trial)
        covered += found.low <= 2 <= found.high
    assert 180 <= covered <= 200
