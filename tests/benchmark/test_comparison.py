"""Verdicts on two timing series: significance, uneven machines, and the gate."""

from __future__ import annotations

import numpy as np
import pytest

from deploytool.benchmark import comparison, ratio
from deploytool.benchmark.interleave import TimingSeries, time_interleaved
from deploytool.benchmark.ratio import Ratio
from deploytool.spec import GateOutcome, SpeedVerdict
from tests.benchmark.simulated_machine import Machine, series


def verdict(slow: TimingSeries, fast: TimingSeries, *, threads: int = 1, on_cpu: bool = True) -> SpeedVerdict:
    return verdict_and_reason(slow, fast, threads=threads, on_cpu=on_cpu)[0]


def verdict_and_reason(
    slow: TimingSeries, fast: TimingSeries, *, threads: int = 1, uneven: str | None = None, on_cpu: bool = True
) -> tuple[SpeedVerdict, str]:
    speedup = ratio.ratio(slow.wall_ms, fast.wall_ms)
    pair = ("eager", slow), ("graph", fast)
    return comparison.verdict(speedup, *pair, threads=threads, uneven=uneven, on_cpu=on_cpu)


def noisy(rng: np.random.Generator, milliseconds: float, count: int = 40) -> TimingSeries:
    return series(milliseconds * np.exp(0.05 * rng.standard_normal(count)) + rng.exponential(0.2, count))


def test_equal_speeds_are_rarely_called_faster_or_slower() -> None:
    rng = np.random.default_rng(0)
    verdicts = [verdict(noisy(rng, 10), noisy(rng, 10)) for _ in range(400)]
    faster, slower = verdicts.count(SpeedVerdict.FASTER), verdicts.count(SpeedVerdict.SLOWER)
    assert faster <= 0.05 * 400
    assert slower <= 0.05 * 400
    assert faster + slower + verdicts.count(SpeedVerdict.NEITHER) == 400


def test_a_difference_of_a_tenth_is_detected() -> None:
    rng = np.random.default_rng(1)
    assert [verdict(noisy(rng, 11), noisy(rng, 10)) for _ in range(100)].count(SpeedVerdict.FASTER) >= 95
    assert [verdict(noisy(rng, 10), noisy(rng, 11)) for _ in range(100)].count(SpeedVerdict.SLOWER) >= 95


def test_a_significant_but_tiny_difference_is_neither() -> None:
    rng = np.random.default_rng(2)
    slow, fast = (series(ms + 0.01 * rng.standard_normal(200)) for ms in (10.1, 10.0))
    assert ratio.ratio(slow.wall_ms, fast.wall_ms).low > 1
    assert verdict(slow, fast) == SpeedVerdict.NEITHER


def test_waiting_threads_of_the_baseline_give_no_verdict() -> None:
    """A measured case: on a busy machine eager's two threads waited and the graph's did not, a ratio of 187."""
    machine = Machine()
    calls = {"eager": machine.work(0.060, threads=2, waited=1.181), "graph": machine.work(0.0066, threads=2)}
    timings = time_interleaved(calls, 20.0, clocks=machine.clocks())
    assert ratio.ratio(timings["eager"].wall_ms, timings["graph"].wall_ms).value > 187
    assert ratio.ratio(timings["eager"].cpu_ms, timings["graph"].cpu_ms).value < 10
    why = "the machine was too uneven: eager waited for a processor in 100% of its rounds"
    assert verdict_and_reason(timings["eager"], timings["graph"], threads=2) == (SpeedVerdict.NO_VERDICT, why)


def test_processor_time_shows_waiting_where_the_queue_is_not_counted() -> None:
    eager, graph = series([1241.0] * 20, cpu=0.1), series([6.6] * 20, cpu=1.9)
    assert "eager waited" in verdict_and_reason(eager, graph, threads=2)[1]
    assert "graph waited" in verdict_and_reason(graph, eager, threads=2)[1]
    assert verdict(eager, graph, threads=2, on_cpu=False) == SpeedVerdict.FASTER  # work on a GPU: the host may rest


def test_a_spinning_thread_does_not_hide_that_another_waits() -> None:
    eager, graph = series([1241.0] * 20, cpu=1.05, queued=0.9), series([6.6] * 20, cpu=1.9)
    assert "eager waited" in verdict_and_reason(eager, graph, threads=2)[1]


def test_a_few_disturbed_rounds_do_not_prevent_a_verdict() -> None:
    wall = np.full(40, 10.0)
    wall[:6] *= 20
    eager = TimingSeries(wall, np.full(40, 10.0), wall - 10)
    assert comparison.waiting_share(eager, 1) == pytest.approx(6 / 40)
    assert verdict(eager, series(np.full(40, 5.0))) == SpeedVerdict.FASTER


def test_an_uneven_machine_gives_no_verdict() -> None:
    why = "other programs took 1.4 of 2 cores"
    outcome, reason = verdict_and_reason(series([20.0] * 10), series([10.0] * 10), uneven=why)
    assert outcome is SpeedVerdict.NO_VERDICT
    assert why in reason


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
