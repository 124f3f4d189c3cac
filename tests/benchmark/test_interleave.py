from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from deploytool.benchmark import interleave
from deploytool.benchmark.interleave import Clocks
from tests.parity.pretended import Machine


def test_every_clock_is_read_around_every_call() -> None:
    machine = Machine()
    calls = {"one": machine.work(0.010), "two": machine.work(0.010, threads=2), "late": machine.work(0.010, waited=0.5)}
    taken = interleave.time_interleaved(calls, 5.0, clocks=machine.clocks())
    found = {name: (each.wall_ms[0], each.cpu_ms[0], each.queued_ms[0]) for name, each in taken.items()}
    assert found["one"] == pytest.approx((10, 10, 0))
    assert found["two"] == pytest.approx((10, 20, 0))
    assert found["late"] == pytest.approx((510, 10, 500))
    assert {len(each.wall_ms) for each in taken.values()} == {9}


def noted(machine: Machine, told: list[str], seconds: float, names: str = "ab") -> dict[str, Callable[[], None]]:
    """Calls that take so long, and tell their names."""
    works = {name: machine.work(seconds, name=name) for name in names}
    return {name: lambda work=work: told.append(work()) for name, work in works.items()}  # type: ignore[misc]


def ordered(names: str, seconds: float = 0.0, warm_up_seconds: float = 0.0) -> list[str]:
    """What a recording calls, round by round."""
    machine, order = Machine(), list[str]()
    calls = noted(machine, order, 0.1, names)
    interleave.time_interleaved(calls, seconds, clocks=machine.clocks(), warm_up_seconds=warm_up_seconds)
    return ["".join(order[start : start + len(names)]) for start in range(0, len(order), len(names))]


def test_no_call_has_a_place_or_a_predecessor_of_its_own() -> None:
    timed = ordered("abcd", seconds=100.0)[2:]
    assert len(timed) == interleave.MAX_ROUNDS
    assert {turn[0] for turn in timed} == {turn[-1] for turn in timed} == set("abcd")
    line = "".join(timed)
    before = {name: [one for one, other in pairwise(line) if other == name] for name in "abcd"}
    for name, found in before.items():
        commonest = max(found.count(other) for other in set(found))
        assert commonest <= 0.5 * len(found), name


@pytest.mark.parametrize(("seconds", "untimed"), [(0.0007, 8), (0.004, 2), (0.02, 1), (0.031, 0)])
def test_a_short_call_is_timed_in_its_stride(seconds: float, untimed: int) -> None:
    machine, told = Machine(), list[str]()
    taken = interleave.time_interleaved(noted(machine, told, seconds), 0.0, clocks=machine.clocks())
    assert taken["a"].wall_ms == pytest.approx(1000 * seconds)
    timed = told[2 * 2 :]
    assert len(timed) == 2 * interleave.MIN_ROUNDS * (untimed + 1)
    assert timed[: untimed + 1] == ["a"] * (untimed + 1)


def test_the_warm_up_lasts_as_long_as_it_should() -> None:
    assert len(ordered("ab")) == 2 + interleave.MIN_ROUNDS
    assert len(ordered("ab", warm_up_seconds=0.9)) == 5 + interleave.MIN_ROUNDS


def test_a_clock_that_stands_still_ends_all_the_same() -> None:
    still = Clocks(lambda: 0.0, lambda: 0.0, lambda: 0.0, lambda: None)
    taken = interleave.time_interleaved({"one": lambda: None}, 1.0, clocks=still, warm_up_seconds=5.0)
    assert len(taken["one"].wall_ms) == interleave.MAX_ROUNDS


def test_outliers_are_kept() -> None:
    machine, calls = Machine(), [0]

    def odd() -> None:
        calls[0] += 1
        machine.work(5.0 if calls[0] == 9 else 0.04)()

    taken = interleave.time_interleaved({"odd": odd}, 0.8, clocks=machine.clocks())["odd"].wall_ms
    assert np.max(taken) == pytest.approx(5000)
    assert np.sort(taken)[-2] == pytest.approx(40)


def test_threads_that_wait_are_counted_or_nothing_is() -> None:
    assert interleave.queued_seconds() >= 0.0


@pytest.fixture
def busy() -> Iterator[threading.Thread]:
    """A thread that works for a while without Python, as those of a library do."""
    thread = threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"", b"", 1_000_000))
    thread.start()
    yield thread
    thread.join()


def test_a_rest_lasts_while_other_threads_work(busy: threading.Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleave, "_REST_SECONDS", 60.0)
    interleave.wait_for_idle_threads()
    assert not busy.is_alive()


def test_a_rest_ends_though_others_go_on(busy: threading.Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleave, "_REST_SECONDS", 0.01)
    interleave.wait_for_idle_threads()
    assert busy.is_alive()


def test_threads_come_to_rest_before_every_call() -> None:
    """A library's threads that still spin after its own call would keep the next one from its processors."""
    machine, told = Machine(), list[str]()
    clocks = replace(machine.clocks(), rest=lambda: told.append("rest"))
    interleave.time_interleaved(noted(machine, told, 0.01), 0.0, clocks=clocks)
    line = "".join(told[2 * 4 :])  # the first two rounds are the warm-up
    assert line.replace("restaa", "").replace("restbb", "") == ""
