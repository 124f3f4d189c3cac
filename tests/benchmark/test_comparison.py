from __future__ import annotations

import numpy as np
import pytest

from deploytool.benchmark import comparison, ratio
from deploytool.benchmark.interleave import TimingSeries, time_interleaved
from deploytool.benchmark.ratio import Ratio
from deploytool.spec import GateOutcome, SpeedVerdict
from tests.parity.pretended import Machine, series


def said(slow: TimingSeries, fast: TimingSeries, *, threads: int = 1, on_cpu: bool = True) -> SpeedVerdict:
    return judged(slow, fast, threads=threads, on_cpu=on_cpu)[0]


def judged(
    slow: TimingSeries, fast: TimingSeries, *, threads: int = 1, uneven: str | None = None, on_cpu: bool = True
) -> tuple[SpeedVerdict, str]:
    found = ratio.ratio(slow.wall_ms, fast.wall_ms)
    pair = ("eager", slow), ("graph", fast)
    return comparison.verdict(found, *pair, threads=threads, uneven=uneven, on_cpu=on_cpu)


def noisy(rng: np.random.Generator, milliseconds: float, count: int = 40) -> TimingSeries:
    return series(milliseconds * np.exp(0.05 * rng.standard_normal(count)) + rng.exponential(0.2, count))


def test_equals_are_not_called_faster() -> None:
    rng = np.random.default_rng(0)
    found = [said(noisy(rng, 10), noisy(rng, 10)) for _ in range(400)]
    assert found.count(SpeedVerdict.FASTER) <= 0.05 * 400
    assert found.count(SpeedVerdict.SLOWER) <= 0.05 * 400
    assert (
        found.count(SpeedVerdict.FASTER) + found.count(SpeedVerdict.SLOWER) + found.count(SpeedVerdict.NEITHER) == 400
    )


def test_a_tenth_is_seen() -> None:
    rng = np.random.default_rng(1)
    assert [said(noisy(rng, 11), noisy(rng, 10)) for _ in range(100)].count(SpeedVerdict.FASTER) >= 95
    assert [said(noisy(rng, 10), noisy(rng, 11)) for _ in range(100)].count(SpeedVerdict.SLOWER) >= 95


def test_a_surely_tiny_difference_is_none() -> None:
    rng = np.random.default_rng(2)
    slow, fast = (series(ms + 0.01 * rng.standard_normal(200)) for ms in (10.1, 10.0))
    assert ratio.ratio(slow.wall_ms, fast.wall_ms).low > 1
    assert said(slow, fast) == SpeedVerdict.NEITHER


def test_threads_that_do_not_run_make_no_rival_fast() -> None:
    """The case that was seen: eager's two threads waited for a busy machine, and the graph's did not: 187 times."""
    machine = Machine()
    calls = {"eager": machine.work(0.060, threads=2, waited=1.181), "graph": machine.work(0.0066, threads=2)}
    taken = time_interleaved(calls, 20.0, clocks=machine.clocks())
    assert ratio.ratio(taken["eager"].wall_ms, taken["graph"].wall_ms).value > 187
    assert ratio.ratio(taken["eager"].cpu_ms, taken["graph"].cpu_ms).value < 10
    why = "the machine was too uneven: eager waited for a processor in 100% of its rounds"
    assert judged(taken["eager"], taken["graph"], threads=2) == (SpeedVerdict.NO_VERDICT, why)


def test_processor_time_alone_shows_it_where_no_queue_is_told() -> None:
    eager, graph = series([1241.0] * 20, cpu=0.1), series([6.6] * 20, cpu=1.9)
    assert "eager waited" in judged(eager, graph, threads=2)[1]
    assert "graph waited" in judged(graph, eager, threads=2)[1]
    assert said(eager, graph, threads=2, on_cpu=False) == SpeedVerdict.FASTER  # work on a GPU: the host may rest


def test_a_thread_that_spins_for_another_hides_nothing() -> None:
    eager, graph = series([1241.0] * 20, cpu=1.05, queued=0.9), series([6.6] * 20, cpu=1.9)
    assert "eager waited" in judged(eager, graph, threads=2)[1]


def test_a_few_disturbed_rounds_are_what_medians_are_for() -> None:
    wall = np.full(40, 10.0)
    wall[:6] *= 20
    eager = TimingSeries(wall, np.full(40, 10.0), wall - 10)
    assert comparison.waiting_share(eager, 1) == pytest.approx(6 / 40)
    assert said(eager, series(np.full(40, 5.0))) == SpeedVerdict.FASTER


def test_an_uneven_machine_gets_no_verdict() -> None:
    seen = judged(series([20.0] * 10), series([10.0] * 10), uneven="other programs took 1.4 of 2 cores")
    assert seen == (SpeedVerdict.NO_VERDICT, "the machine was too uneven: other programs took 1.4 of 2 cores")


@pytest.mark.parametrize(
    ("low", "high", "verdict", "expected"),
    [
        (1.6, 1.8, SpeedVerdict.FASTER, GateOutcome.REACHED),
        (1.5, 1.8, SpeedVerdict.FASTER, GateOutcome.REACHED),
        (1.4, 1.8, SpeedVerdict.FASTER, GateOutcome.OPEN),
        (1.2, 1.4, SpeedVerdict.FASTER, GateOutcome.MISSED),
        (1.6, 1.8, SpeedVerdict.NO_VERDICT, GateOutcome.OPEN),
        (1.2, 1.4, SpeedVerdict.NO_VERDICT, GateOutcome.OPEN),
    ],
)
def test_a_threshold_inside_the_interval_is_open(
    low: float, high: float, verdict: SpeedVerdict, expected: GateOutcome
) -> None:
    assert comparison.gate_outcome(1.5, Ratio((low + high) / 2, low, high), verdict) == expected
