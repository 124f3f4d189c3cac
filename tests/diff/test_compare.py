"""What changed: nothing against itself, the same both ways round, and only what can be compared."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from deploytool import serde
from deploytool.diff import Changed, Side, Value, compare, shifts
from tests.diff.drawn import side, sides


@settings(max_examples=100, deadline=None)
@given(one=sides())
def test_nothing_changes_from_a_side_to_itself(one: Side) -> None:
    assert compare(one, one).none
    assert all(shift.factor in (1.0, None) for shift in shifts(one, one))


@settings(max_examples=150, deadline=None)
@given(a=sides(), b=sides())
def test_the_other_way_round_every_change_is_turned_round(a: Side, b: Side) -> None:
    there, back = compare(a, b), compare(b, a)
    assert {(each.name, each.a, each.b) for each in there.facts} == {(each.name, each.b, each.a) for each in back.facts}
    turned = {(shift.quantity, shift.place): shift for shift in back.shifts}
    assert len(turned) == len(there.shifts)
    for shift in there.shifts:
        other = turned[shift.quantity, shift.place]
        assert (shift.a, shift.b, shift.sure) == (other.b, other.a, other.sure)
        if shift.factor and other.factor:
            assert shift.factor * other.factor == pytest.approx(1.0)


@settings(max_examples=100, deadline=None)
@given(a=sides(), b=sides())
def test_it_has_a_plain_form(a: Side, b: Side) -> None:
    assert serde.text(compare(a, b))


def test_facts_that_one_side_lacks_count_between_two_of_a_kind() -> None:
    a, b = side(facts={"weights": "1", "exporter": "dynamo"}), side(facts={"weights": "2", "batch": "8"})
    assert compare(a, b).facts == (
        Changed("weights", "1", "2"),
        Changed("exporter", "dynamo", None),
        Changed("batch", None, "8"),
    )
    home = side(kind="device", facts={"weights": "2", "serves": "ORT CPU"})
    assert compare(a, home).facts == (Changed("weights", "1", "2"),)


@pytest.mark.parametrize(
    ("before", "after", "sure"),
    [
        (Value(2.0, 1.8, 2.2), Value(2.1, 1.9, 2.3), False),
        (Value(2.0, 1.8, 2.2), Value(2.6, 2.3, 2.9), True),
        (Value(2.0, 1.8, 2.2), Value(1.0, 0.9, 1.1), True),
        (Value(2.0, 1.8, 2.2), Value(2.4, 2.2, 2.6), False),  # they touch
        (Value(2.0), Value(2.6, 2.3, 2.9), None),
    ],
)
def test_intervals_that_overlap_are_no_sure_difference(before: Value, after: Value, sure: bool | None) -> None:
    (shift,) = compare(side(speedup=before), side(speedup=after)).shifts
    assert shift.sure is sure


def test_speeds_of_two_machines_are_not_comparable_and_errors_are() -> None:
    a = side(p50=Value(1.0), parity=Value(1e-6))
    b = side(p50=Value(2.0), parity=Value(2e-6), machine="another")
    found = {shift.quantity: (shift.factor, shift.comparable) for shift in compare(a, b).shifts}
    assert found == {"parity": (2.0, True), "p50": (2.0, False)}


@pytest.mark.parametrize(
    ("before", "after", "factor"),
    [(0.0, 0.0, 1.0), (0.0, 1.0, None), (2.0, 1.0, 0.5), (1e-7, 1.7e308, 1.7976931348623157e308)],
)
def test_a_factor_of_nothing_is_none_and_of_the_largest_is_finite(
    before: float, after: float, factor: float | None
) -> None:
    (shift,) = shifts(side(parity=Value(before)), side(parity=Value(after)))
    assert shift.factor == factor
