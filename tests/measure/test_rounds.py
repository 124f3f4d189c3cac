from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from deploytool.measure import rounds
from deploytool.measure.rounds import Clocks
from tests.measure.pretended import Machine


def test_every_clock_is_read_around_every_call() -> None:
    machine = Machine()
    calls = {"one": machine.work(0.010), "two": machine.work(0.010, threads=2), "late": machine.work(0.010, waited=0.5)}
    taken = rounds.record(calls, 5.0, clocks=machine.clocks())
    found = {name: (each.wall_ms[0], each.cpu_ms[0], each.queued_ms[0]) for name, each in taken.items()}
    assert found["one"] == pytest.approx((10, 10, 0))
    assert found["two"] == pytest.approx((10, 20, 0))
    assert found["late"] == pytest.approx((510, 10, 500))
    assert {len(each.wall_ms) for each in taken.values()} == {9}


def ordered(names: str, seconds: float = 0.0, warm_up_seconds: float = 0.0) -> list[str]:
    """What a recording calls, round by round."""
    machine, order = Machine(), []

    def noted(name: str) -> Callable[[], None]:
        work = machine.work(0.1, name=name)
        return lambda: order.append(work())

    calls = {name: noted(name) for name in names}
    rounds.record(calls, seconds, clocks=machine.clocks(), warm_up_seconds=warm_up_seconds)
    return ["".join(order[start : start + len(names)]) for start in range(0, len(order), len(names))]


def test_no_call_has_a_place_or_a_predecessor_of_its_own() -> None:
    timed = ordered("abcd", seconds=100.0)[2:]
    assert len(timed) == rounds.MOST
    assert {turn[0] for turn in timed} == {turn[-1] for turn in timed} == set("abcd")
    line = "".join(timed)
    before = {name: [one for one, other in pairwise(line) if other == name] for name in "abcd"}
    for name, found in before.items():
        commonest = max(found.count(other) for other in set(found))
        assert commonest <= 0.5 * len(found), name


def test_the_warm_up_lasts_as_long_as_it_should() -> None:
    assert len(ordered("ab")) == 2 + rounds.FEWEST
    assert len(ordered("ab", warm_up_seconds=0.9)) == 5 + rounds.FEWEST


def test_a_clock_that_stands_still_ends_all_the_same() -> None:
    still = Clocks(lambda: 0.0, lambda: 0.0, lambda: 0.0, lambda: None)
    taken = rounds.record({"one": lambda: None}, 1.0, clocks=still, warm_up_seconds=5.0)
    assert len(taken["one"].wall_ms) == rounds.MOST


def test_outliers_are_kept() -> None:
    machine, calls = Machine(), [0]

    def odd() -> None:
        calls[0] += 1
        machine.work(5.0 if calls[0] == 9 else 0.001)()

    taken = rounds.record({"odd": odd}, 0.02, clocks=machine.clocks())["odd"].wall_ms
    assert np.max(taken) == pytest.approx(5000)
    assert np.sort(taken)[-2] == pytest.approx(1)


def test_threads_that_wait_are_counted_or_nothing_is() -> None:
    assert rounds.queued() >= 0.0


@pytest.fixture
def busy() -> Iterator[threading.Thread]:
    """A thread that works for a while without Python, as those of a library do."""
    thread = threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"", b"", 1_000_000))
    thread.start()
    yield thread
    thread.join()


def test_a_rest_lasts_while_other_threads_work(busy: threading.Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_REST_SECONDS", 60.0)
    rounds.rest()
    assert not busy.is_alive()


def test_a_rest_ends_though_others_go_on(busy: threading.Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_REST_SECONDS", 0.01)
    rounds.rest()
    assert busy.is_alive()


def test_threads_come_to_rest_before_every_call() -> None:
    """A library's threads that still spin after its own call would keep the next one from its processors."""
    told: list[str] = []
    clocks = Clocks(rest=lambda: told.append("rest"))
    rounds.record({name: partial(told.append, name) for name in ("a", "b")}, 0.01, clocks=clocks, most=8)
    assert told[::2] == ["rest"] * (len(told) // 2)
    assert set(told[1::2]) == {"a", "b"}
