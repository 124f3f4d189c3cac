"""Comparing sides: no change against itself, symmetry, and comparability."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from deploytool import serde
from deploytool.diff.compare import FactChange, Side, Value, compare, figure_changes
from tests.diff.drawn import side, sides


@settings(max_examples=100, deadline=None)
@given(same=sides())
def test_a_side_does_not_differ_from_itself(same: Side) -> None:
    assert compare(same, same).empty
    assert all(change.factor in (1.0, None) for change in figure_changes(same, same))


@settings(max_examples=150, deadline=None)
@given(a=sides(), b=sides())
def test_swapping_the_sides_inverts_every_change(a: Side, b: Side) -> None:
    forward, backward = compare(a, b), compare(b, a)
    assert {(fact.name, fact.a, fact.b) for fact in forward.facts} == {
        (fact.name, fact.b, fact.a) for fact in backward.facts
    }
    inverse = {(change.quantity, change.subject): change for change in backward.figures}
    assert len(inverse) == len(forward.figures)
    for change in forward.figures:
        swapped = inverse[change.quantity, change.subject]
        assert (change.a, change.b, change.significant) == (swapped.b, swapped.a, swapped.significant)
        if change.factor and swapped.factor:
            assert change.factor * swapped.factor == pytest.approx(1.0)


@settings(max_examples=100, deadline=None)
@given(a=sides(), b=sides())
def test_a_difference_can_be_written_as_json(a: Side, b: Side) -> None:
    assert serde.text(compare(a, b))


def test_facts_of_one_side_only_count_between_sides_of_the_same_kind() -> None:
    a, b = side(facts={"weights": "1", "exporter": "dynamo"}), side(facts={"weights": "2", "batch": "8"})
    assert compare(a, b).facts == (
        FactChange("weights", "1", "2"),
        FactChange("exporter", "dynamo", None),
        FactChange("batch", None, "8"),
    )
    device = side(kind="device", facts={"weights": "2", "selected": "ORT CPU"})
    assert compare(a, device).facts == (FactChange("weights", "1", "2"),)


@pytest.mark.parametrize(
    ("before", "after", "significant"),
    [
        (Value(2.0, 1.8, 2.2), Value(2.1, 1.9, 2.3), False),
        (Value(2.0, 1.8, 2.2), Value(2.6, 2.3, 2.9), True),
        (Value(2.0, 1.8, 2.2), Value(1.0, 0.9, 1.1), True),
        (Value(2.0, 1.8, 2.2), Value(2.4, 2.2, 2.6), False),  # they touch
        (Value(2.0), Value(2.6, 2.3, 2.9), None),
    ],
)
def test_a_difference_with_overlapping_intervals_is_not_significant(
    before: Value, after: Value, significant: bool | None
) -> None:
    (change,) = compare(side(speedup=before), side(speedup=after)).figures
    assert change.significant is significant


def test_errors_are_comparable_between_machines_and_speeds_are_not() -> None:
    a = side(p50=Value(1.0), parity=Value(1e-6))
    b = side(p50=Value(2.0), parity=Value(2e-6), machine="another")
    changes = {change.quantity: (change.factor, change.comparable) for change in compare(a, b).figures}
    assert changes == {"parity": (2.0, True), "p50": (2.0, False)}


@pytest.mark.parametrize(
    ("before", "after", "factor"),
    [(0.0, 0.0, 1.0), (0.0, 1.0, None), (2.0, 1.0, 0.5), (1e-7, 1.7e308, 1.7976931348623157e308)],
)
def test_a_factor_over_zero_is_none_and_a_huge_factor_is_finite(
    before: float, after: float, factor: float | None
) -> None:
    (change,) = figure_changes(side(parity=Value(before)), side(parity=Value(after)))
    assert change.factor == factor
