"""Timing in turn: order of the calls, warm-up, leads, clocks and rests, on a simulated machine."""

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
from tests.benchmark.simulated_machine import Machine


def test_every_clock_is_read_around_every_call() -> None:
    machine = Machine()
    calls = {
        "single": machine.work(0.010),
        "double": machine.work(0.010, threads=2),
        "delayed": machine.work(0.010, waited=0.5),
    }
    timings = interleave.time_interleaved(calls, 5.0, clocks=machine.clocks())
    first = {name: (each.wall_ms[0], each.cpu_ms[0], each.queued_ms[0]) for name, each in timings.items()}
    assert first["single"] == pytest.approx((10, 10, 0))
    assert first["double"] == pytest.approx((10, 20, 0))
    assert first["delayed"] == pytest.approx((510, 10, 500))
    assert {len(each.wall_ms) for each in timings.values()} == {9}


def recording_calls(
    machine: Machine, names_called: list[str], seconds: float, names: str = "ab"
) -> dict[str, Callable[[], None]]:
    """Calls that take that long each, and append their names to `names_called`."""
    works = {name: machine.work(seconds, name=name) for name in names}
    return {name: lambda work=work: names_called.append(work()) for name, work in works.items()}  # type: ignore[misc]


def call_order(names: str, seconds: float = 0.0, warm_up_seconds: float = 0.0) -> list[str]:
    """The names called in each round."""
    machine, order = Machine(), list[str]()
    calls = recording_calls(machine, order, 0.1, names)
    interleave.time_interleaved(calls, seconds, clocks=machine.clocks(), warm_up_seconds=warm_up_seconds)
    return ["".join(order[start : start + len(names)]) for start in range(0, len(order), len(names))]


def test_no_call_has_a_fixed_position_or_predecessor() -> None:
    rounds = call_order("abcd", seconds=100.0)[2:]
    assert len(rounds) == interleave.MAX_ROUNDS
    assert {names[0] for names in rounds} == {names[-1] for names in rounds} == set("abcd")
    sequence = "".join(rounds)
    predecessors = {name: [previous for previous, current in pairwise(sequence) if current == name] for name in "abcd"}
    for name, previous in predecessors.items():
        commonest = max(previous.count(neighbour) for neighbour in set(previous))
        assert commonest <= 0.5 * len(previous), name


@pytest.mark.parametrize(("seconds", "untimed"), [(0.0007, 8), (0.004, 2), (0.02, 1), (0.031, 0)])
def test_a_short_call_is_timed_after_untimed_calls(seconds: float, untimed: int) -> None:
    machine, order = Machine(), list[str]()
    timings = interleave.time_interleaved(recording_calls(machine, order, seconds), 0.0, clocks=machine.clocks())
    assert timings["a"].wall_ms == pytest.approx(1000 * seconds)
    after_warm_up = order[2 * 2 :]
    assert len(after_warm_up) == 2 * interleave.MIN_ROUNDS * (untimed + 1)
    assert after_warm_up[: untimed + 1] == ["a"] * (untimed + 1)


def test_the_warm_up_lasts_as_long_as_requested() -> None:
    assert len(call_order("ab")) == 2 + interleave.MIN_ROUNDS
    assert len(call_order("ab", warm_up_seconds=0.9)) == 5 + interleave.MIN_ROUNDS


def test_a_clock_that_does_not_advance_ends_the_warm_up() -> None:
    still = Clocks(lambda: 0.0, lambda: 0.0, lambda: 0.0, lambda: None)
    timings = interleave.time_interleaved({"call": lambda: None}, 1.0, clocks=still, warm_up_seconds=5.0)
    assert len(timings["call"].wall_ms) == interleave.MAX_ROUNDS


def test_outliers_are_kept() -> None:
    machine, calls = Machine(), [0]

    def slow_once() -> None:
        calls[0] += 1
        machine.work(5.0 if calls[0] == 9 else 0.04)()

    wall_ms = interleave.time_interleaved({"call": slow_once}, 0.8, clocks=machine.clocks())["call"].wall_ms
    assert np.max(wall_ms) == pytest.approx(5000)
    assert np.sort(wall_ms)[-2] == pytest.approx(40)


def test_queued_seconds_are_never_negative() -> None:
    assert interleave.queued_seconds() >= 0.0


@pytest.fixture
def busy() -> Iterator[threading.Thread]:
    """A thread that computes for a while without the interpreter lock, as those of a library do."""
    thread = threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"", b"", 1_000_000))
    thread.start()
    yield thread
    thread.join()


def test_a_rest_lasts_while_other_threads_run(busy: threading.Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleave, "_REST_SECONDS", 60.0)
    interleave.wait_for_idle_threads()
    assert not busy.is_alive()


def test_a_rest_ends_at_its_time_limit(busy: threading.Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleave, "_REST_SECONDS", 0.01)
    interleave.wait_for_idle_threads()
    assert busy.is_alive()


def test_there_is_a_rest_before_every_call() -> None:
    """A library's threads that still spin after their own call would take processors from the next one."""
    machine, order = Machine(), list[str]()
    clocks = replace(machine.clocks(), rest=lambda: order.append("rest"))
    interleave.time_interleaved(recording_calls(machine, order, 0.01), 0.0, clocks=clocks)
    sequence = "".join(order[2 * 4 :])  # without the two rounds of the warm-up
    assert sequence.replace("restaa", "").replace("restbb", "") == ""
