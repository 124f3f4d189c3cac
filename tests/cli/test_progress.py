"""The remaining time: from an earlier run, from the progress of the step, or unknown."""

from __future__ import annotations

from pathlib import Path

from deploytool.cli.progress import Clock, expected_seconds


class FakeTime:
    """A time source that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_the_remaining_time_is_estimated_from_an_earlier_run() -> None:
    time = FakeTime()
    clock = Clock(("golden", "fp16", "faults"), {"golden": 10.0, "fp16": 20.0, "faults": 70.0}, time)
    assert str(clock) == "0:00, about 1:40 left"
    time.seconds += 4
    assert clock.remaining() == 96.0
    assert clock.next_step() == "fp16"  # earlier than expected
    assert clock.remaining() == 90.0
    time.seconds += 25  # longer than expected: unknown
    assert clock.remaining() is None
    assert str(clock) == "0:29"
    assert [clock.next_step(), clock.next_step()] == ["faults", "done"]


def test_the_progress_of_a_step_takes_precedence() -> None:
    time = FakeTime()
    clock = Clock(("build", "faults"), {"build": 2.0, "faults": 5.0}, time)
    time.seconds += 30
    clock.update(1, 4)
    assert clock.remaining() == 95.0
    single = Clock(("faults",), {}, time)
    assert single.remaining() is None
    time.seconds += 10
    single.update(10, 40)
    assert single.remaining() == 30.0


def test_one_unknown_step_makes_the_remaining_time_unknown() -> None:
    clock = Clock(("golden", "fp16"), {"golden": 1.0}, FakeTime())
    assert clock.remaining() is None
    assert str(clock) == "0:00"


def test_expected_seconds_come_from_the_receipts(finished: Path) -> None:
    seconds = expected_seconds(finished, ("golden", "fp16", "pack"))
    assert set(seconds) == {"golden", "fp16"}
    assert all(value > 0 for value in seconds.values())
