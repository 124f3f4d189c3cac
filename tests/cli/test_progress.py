"""How much time is left: what an earlier run took, what the step itself says, or nothing."""

from __future__ import annotations

from pathlib import Path

from deploytool.cli.progress import Clock, expected_seconds


class Hands:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_what_an_earlier_run_took_is_what_is_left() -> None:
    hands = Hands()
    clock = Clock(("golden", "fp16", "faults"), {"golden": 10.0, "fp16": 20.0, "faults": 70.0}, hands)
    assert str(clock) == "0:00, about 1:40 left"
    hands.seconds += 4
    assert clock.remaining() == 96.0
    assert clock.next_step() == "fp16"  # sooner than expected
    assert clock.remaining() == 90.0
    hands.seconds += 25  # longer than expected: nobody knows
    assert clock.remaining() is None
    assert str(clock) == "0:29"
    assert [clock.next_step(), clock.next_step()] == ["faults", "done"]


def test_a_step_that_says_how_far_it_is_is_believed() -> None:
    hands = Hands()
    clock = Clock(("build", "faults"), {"build": 2.0, "faults": 5.0}, hands)
    hands.seconds += 30
    clock.update(1, 4)
    assert clock.remaining() == 95.0
    alone = Clock(("faults",), {}, hands)
    assert alone.remaining() is None
    hands.seconds += 10
    alone.update(10, 40)
    assert alone.remaining() == 30.0


def test_one_step_that_is_not_known_is_enough_to_say_nothing() -> None:
    clock = Clock(("golden", "fp16"), {"golden": 1.0}, Hands())
    assert clock.remaining() is None
    assert str(clock) == "0:00"


def test_the_seconds_of_an_earlier_run_are_on_its_receipts(finished: Path) -> None:
    found = expected_seconds(finished, ("golden", "fp16", "pack"))
    assert set(found) == {"golden", "fp16"}
    assert all(seconds > 0 for seconds in found.values())
