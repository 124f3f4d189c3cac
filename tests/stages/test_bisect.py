"""Tests of the search for the passes of onnxsim that must be left out."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from deploytool.stages.simplify import bisect

SWITCHES = tuple(f"pass_{number}" for number in range(42))


@pytest.mark.parametrize("seed", range(60))
def test_the_failing_switches_are_found_in_few_calls(seed: int) -> None:
    generator = random.Random(seed)
    failing = set(generator.sample(SWITCHES, generator.randint(1, 3)))
    calls: list[Sequence[str]] = []

    def passes(off: Sequence[str]) -> bool:
        calls.append(off)
        return failing <= set(off)

    result = bisect(SWITCHES, passes, 3)
    assert result == tuple(sorted(failing, key=SWITCHES.index))
    assert calls[-1] == result  # the file written by the last call is that of the result
    assert len(calls) <= 1 + 7 * len(failing)


def test_of_two_results_the_one_whose_last_switch_comes_first_is_returned() -> None:
    assert bisect(SWITCHES, lambda off: bool({"pass_5", "pass_30"} & set(off)), 3) == ("pass_5",)


def test_more_failing_switches_than_allowed_give_none() -> None:
    failing = set(SWITCHES[3:7])
    assert bisect(SWITCHES, lambda off: failing <= set(off), 3) is None


@pytest.mark.parametrize("switches", [SWITCHES, SWITCHES[:1], ()])
def test_a_failure_with_everything_off_gives_none(switches: Sequence[str]) -> None:
    assert bisect(switches, lambda off: False, 3) is None


@pytest.mark.parametrize("seed", range(30))
def test_the_result_passes_even_if_the_condition_is_not_monotone(seed: int) -> None:
    def passes(off: Sequence[str]) -> bool:
        return random.Random(f"{seed} {sorted(off)}").random() < 0.4

    result = bisect(SWITCHES, passes, 3)
    assert result is None or passes(result)
