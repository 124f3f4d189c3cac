"""The choice between forms of a graph by their measured speed-ups."""

from __future__ import annotations

import pytest

from deploytool.benchmark import choice
from deploytool.benchmark.ratio import Ratio

FASTER, UNCERTAIN, EQUAL, SLOWER = (
    Ratio(1.5, 1.4, 1.6),
    Ratio(1.2, 0.9, 1.5),
    Ratio(1.0, 0.9, 1.1),
    Ratio(0.9, 0.8, 1.0),
)


@pytest.mark.parametrize(
    ("ratios", "chosen"),
    [
        ({}, "original"),
        ({"folded": [EQUAL, EQUAL]}, "original"),
        ({"folded": [UNCERTAIN, UNCERTAIN]}, "original"),
        ({"folded": [FASTER, EQUAL]}, "folded"),
        ({"folded": [FASTER, SLOWER]}, "original"),
        ({"folded": [FASTER, EQUAL], "dense": [FASTER, FASTER]}, "dense"),
        ({"dense": [FASTER, FASTER], "folded": [Ratio(9, 8, 10), Ratio(0.97, 0.9, 1.0)]}, "dense"),
        ({"folded": []}, "original"),
    ],
)
def test_the_fastest_form_is_chosen_that_is_slower_at_no_batch_size(
    ratios: dict[str, list[Ratio]], chosen: str
) -> None:
    assert choice.choose(ratios, "original") == chosen
