from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from deploytool.benchmark import machine_state
from deploytool.benchmark.machine_state import Snapshot
from tests.parity.pretended import series

QUIET = np.full(30, 1.0)
BEFORE = Snapshot(wall=100.0, own=5.0, busy=50.0, mhz=3000.0, gpu="1980 MHz, 1980 MHz, 0x0, 40")


def later(own: float, busy: float | None) -> Snapshot:
    """Ten seconds later, in which this process worked so long and all processors together so long."""
    return Snapshot(110.0, 5.0 + own, None if busy is None else 50.0 + busy, 2900.0, "1500 MHz, 1980 MHz, 0x4, 80")


def test_a_quiet_machine_is_even() -> None:
    found = machine_state.assess(BEFORE, later(own=10.0, busy=10.3), series(QUIET), threads=1, cores=2)
    assert found.uneven is None
    assert found.others == pytest.approx(0.03)
    assert (found.reference_ms, found.spread, found.drift) == pytest.approx((1, 1, 1))
    assert found.mhz == (3000.0, 2900.0)
    assert found.gpu == (BEFORE.gpu, later(0, 0).gpu)


@pytest.mark.parametrize(
    ("threads", "busy", "uneven"),
    [(1, 20.0, None), (2, 20.0, "other programs took 1.0 of 2 cores"), (1, 24.0, "other programs took 1.4 of 2 cores")],
)
def test_what_others_take_matters_where_no_core_is_free(threads: int, busy: float, uneven: str | None) -> None:
    assert machine_state.assess(BEFORE, later(10.0, busy), series(QUIET), threads, cores=2).uneven == uneven


def test_a_machine_without_counters_is_judged_by_the_reference_alone() -> None:
    bare = dataclasses.replace(BEFORE, busy=None, mhz=None, gpu="")
    found = machine_state.assess(bare, later(10.0, None), series(QUIET), threads=2, cores=2)
    assert (found.others, found.uneven, found.gpu) == (None, None, (later(0, 0).gpu,))


def test_a_throttle_shows_in_the_fixed_piece_of_work() -> None:
    slower = np.linspace(1.0, 1.4, 30)
    for taken in (slower, slower[::-1]):
        found = machine_state.assess(BEFORE, later(10.0, 10.0), series(taken), threads=1, cores=2)
        assert found.uneven is not None
        assert "times as long at the end" in found.uneven


def test_a_machine_that_hiccups_often_is_uneven() -> None:
    taken = QUIET.copy()
    taken[::5] = 3.0
    found = machine_state.assess(BEFORE, later(10.0, 10.0), series(taken), threads=1, cores=2)
    assert found.uneven == "a fixed piece of work took 3.0 times its median in a tenth of the rounds"


def test_the_real_machine_is_watched() -> None:
    watched: list[int] = []
    taken, found = machine_state.time_watched(
        {"rest": lambda: time.sleep(0.002)}, 0.05, 1, watch=lambda done, total: watched.append(done)
    )
    assert list(taken) == ["rest"]
    assert watched[-1] == len(taken["rest"].wall_ms)
    assert taken["rest"].wall_ms.min() >= 2
    assert 0.05 < found.reference_ms < 50
    assert found.others is None or 0 <= found.others <= found.cores + 1
