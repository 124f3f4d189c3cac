from __future__ import annotations

import pytest

from deploytool.benchmark import choice
from deploytool.benchmark.ratio import Ratio

SURE, LIKELY, TIE, SLOW = Ratio(1.5, 1.4, 1.6), Ratio(1.2, 0.9, 1.5), Ratio(1.0, 0.9, 1.1), Ratio(0.9, 0.8, 1.0)


@pytest.mark.parametrize(
    ("ratios", "chosen"),
    [
        ({}, "original"),
        ({"folded": [TIE, TIE]}, "original"),
        ({"folded": [LIKELY, LIKELY]}, "original"),
        ({"folded": [SURE, TIE]}, "folded"),
        ({"folded": [SURE, SLOW]}, "original"),
        ({"folded": [SURE, TIE], "dense": [SURE, SURE]}, "dense"),
        ({"dense": [SURE, SURE], "folded": [Ratio(9, 8, 10), Ratio(0.97, 0.9, 1.0)]}, "dense"),
        ({"folded": []}, "original"),
    ],
)
def test_the_fastest_that_is_surely_faster_somewhere_and_slower_nowhere(
    ratios: dict[str, list[Ratio]], chosen: str
) -> None:
    assert choice.choose(ratios, "original") == chosen
