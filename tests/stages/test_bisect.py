from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from deploytool.stages.simplify import bisect

SWITCHES = tuple(f"pass_{number}" for number in range(42))


@pytest.mark.parametrize("seed", range(60))
def test_the_guilty_are_found_in_few_tries(seed: int) -> None:
    drawn = random.Random(seed)
    guilty = set(drawn.sample(SWITCHES, drawn.randint(1, 3)))
    tries: list[Sequence[str]] = []

    def holds(off: Sequence[str]) -> bool:
        tries.append(off)
        return guilty <= set(off)

    found = bisect(SWITCHES, holds, 3)
    assert found == tuple(sorted(guilty, key=SWITCHES.index))
    assert tries[-1] == found  # so that what the last try made is the answer's
    assert len(tries) <= 1 + 7 * len(guilty)


def test_of_two_ways_the_one_that_ends_first_is_taken() -> None:
    assert bisect(SWITCHES, lambda off: bool({"pass_5", "pass_30"} & set(off)), 3) == ("pass_5",)


def test_too_many_guilty_are_nobody() -> None:
    guilty = set(SWITCHES[3:7])
    assert bisect(SWITCHES, lambda off: guilty <= set(off), 3) is None


@pytest.mark.parametrize("switches", [SWITCHES, SWITCHES[:1], ()])
def test_where_nothing_holds_there_is_no_culprit(switches: Sequence[str]) -> None:
    assert bisect(switches, lambda off: False, 3) is None


@pytest.mark.parametrize("seed", range(30))
def test_an_answer_holds_even_where_more_off_can_hurt(seed: int) -> None:
    def holds(off: Sequence[str]) -> bool:
        return random.Random(f"{seed} {sorted(off)}").random() < 0.4

    found = bisect(SWITCHES, holds, 3)
    assert found is None or holds(found)
