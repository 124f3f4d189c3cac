"""The conditions of a benchmark: drift, spread and other programs."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from deploytool.benchmark import machine_state
from deploytool.benchmark.machine_state import Snapshot
from tests.benchmark.simulated_machine import series

QUIET = np.full(30, 1.0)
BEFORE = Snapshot(wall=100.0, own=5.0, busy=50.0, mhz=3000.0, gpu="1980 MHz, 1980 MHz, 0x0, 40")


def later(own: float, busy: float | None) -> Snapshot:
    """A snapshot ten seconds later; this process used `own` seconds of them, all processors together `busy`."""
    return Snapshot(110.0, 5.0 + own, None if busy is None else 50.0 + busy, 2900.0, "1500 MHz, 1980 MHz, 0x4, 80")


def test_an_idle_machine_is_even() -> None:
    conditions = machine_state.assess(BEFORE, later(own=10.0, busy=10.3), series(QUIET), threads=1, cores=2)
    assert conditions.uneven is None
    assert conditions.others == pytest.approx(0.03)
    assert (conditions.reference_ms, conditions.spread, conditions.drift) == pytest.approx((1, 1, 1))
    assert conditions.mhz == (3000.0, 2900.0)
    assert conditions.gpu == (BEFORE.gpu, later(0, 0).gpu)


@pytest.mark.parametrize(
    ("threads", "busy", "uneven"),
    [(1, 20.0, None), (2, 20.0, "other programs took 1.0 of 2 cores"), (1, 24.0, "other programs took 1.4 of 2 cores")],
)
def test_other_programs_matter_only_where_no_core_is_free(threads: int, busy: float, uneven: str | None) -> None:
    assert machine_state.assess(BEFORE, later(10.0, busy), series(QUIET), threads, cores=2).uneven == uneven


def test_without_counters_only_the_reference_work_counts() -> None:
    bare = dataclasses.replace(BEFORE, busy=None, mhz=None, gpu="")
    conditions = machine_state.assess(bare, later(10.0, None), series(QUIET), threads=2, cores=2)
    assert (conditions.others, conditions.uneven, conditions.gpu) == (None, None, (later(0, 0).gpu,))


def test_throttling_shows_as_drift_of_the_reference_work() -> None:
    slower = np.linspace(1.0, 1.4, 30)
    for wall_ms in (slower, slower[::-1]):
        conditions = machine_state.assess(BEFORE, later(10.0, 10.0), series(wall_ms), threads=1, cores=2)
        assert conditions.uneven is not None
        assert "times as long at the end" in conditions.uneven


def test_frequent_delays_show_as_spread_of_the_reference_work() -> None:
    wall_ms = QUIET.copy()
    wall_ms[::5] = 3.0
    conditions = machine_state.assess(BEFORE, later(10.0, 10.0), series(wall_ms), threads=1, cores=2)
    assert conditions.uneven is not None
    assert "3.0 times its median" in conditions.uneven


def test_conditions_of_the_real_machine() -> None:
    progress: list[int] = []
    timings, conditions = machine_state.time_watched(
        {"rest": lambda: time.sleep(0.002)}, 0.05, 1, watch=lambda done, total: progress.append(done)
    )
    assert list(timings) == ["rest"]
    assert progress[-1] == len(timings["rest"].wall_ms)
    assert timings["rest"].wall_ms.min() >= 2
    assert 0.05 < conditions.reference_ms < 50
    assert conditions.others is None or 0 <= conditions.others <= conditions.cores + 1
