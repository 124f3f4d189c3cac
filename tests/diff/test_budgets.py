"""Budgets: what may be written, what each kind of limit means, and that what was not measured has not passed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from deploytool.diff import Side, Value
from deploytool.diff.budgets import Budget, BudgetResult, Margin, Outcome, judge, lines, outcome, parse
from deploytool.diff.quantities import QUANTITIES
from deploytool.errors import BadInput
from tests.diff.drawn import PLACES, side, sides

HELD, OVER, UNKNOWN = Outcome.HELD, Outcome.OVER, Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("text", "figure", "place", "above", "by", "limit"),
    [
        ("parity>2x", "parity", None, True, Margin.FACTOR, 2.0),
        ("parity>1.5×", "parity", None, True, Margin.FACTOR, 1.5),
        ("p99>+5%", "p99", None, True, Margin.PERCENT, 0.05),
        ("size>+10%", "size", None, True, Margin.PERCENT, 0.1),
        ("top1<-0.5%", "top1", None, False, Margin.PERCENT, -0.005),
        ("top1<99%", "top1", None, False, Margin.VALUE, 0.99),
        ("accuracy < .75", "accuracy", None, False, Margin.VALUE, 0.75),
        ("parity>1e-3", "parity", None, True, Margin.VALUE, 1e-3),
        ("parity>+1e-3", "parity", None, True, Margin.CHANGE, 1e-3),
        ("p99>3ms", "p99", None, True, Margin.VALUE, 3.0),
        ("p99>0.5s", "p99", None, True, Margin.VALUE, 500.0),
        ("p99>+200us", "p99", None, True, Margin.CHANGE, 0.2),
        ("size>20MB", "size", None, True, Margin.VALUE, 20e6),
        ("size>+64 kB", "size", None, True, Margin.CHANGE, 64e3),
        ("noise>4", "noise", None, True, Margin.VALUE, 4.0),
        ("speedup<0.95x", "speedup", None, False, Margin.FACTOR, 0.95),
        ("p50@ORT CPU>2x", "p50", "ORT CPU", True, Margin.FACTOR, 2.0),
        (
            " parity @ fp16/model.onnx in FP16 arithmetic > 2x ",
            "parity",
            "fp16/model.onnx in FP16 arithmetic",
            True,
            Margin.FACTOR,
            2.0,
        ),
    ],
)
def test_what_may_be_written(text: str, figure: str, place: str | None, above: bool, by: Margin, limit: float) -> None:
    found = parse(text)
    assert found == Budget(text.strip(), figure, place, above, by, found.limit)
    assert found.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("", "is no budget", "parity>2x"),
        ("parity", "is no budget", "parity>2x"),
        ("parity=2x", "is no budget", "parity>2x"),
        ("parity>", "is no budget", "parity>2x"),
        (">2x", "is no budget", "parity>2x"),
        ("parity@>2x", "is no budget", "parity>2x"),
        ("pairty>2x", "there is no figure 'pairty'", "parity, noise, tolerated"),
        ("P99>2x", "there is no figure 'P99'", "p99"),
        ("parity>two", "'two' is no limit", "parity>2x"),
        ("parity>2xx", "'2xx' is no parity", "parity>2x"),
        ("parity>5%", "'5%' is no parity", "parity>+5%"),
        ("parity>+2x", r"'\+2x' is no parity", "parity>2x"),
        ("p99>3MB", "'3MB' is no p99", "p99>3us or p99>3ms"),
        ("size>3ms", "'3ms' is no size", "size>3B or size>3kB"),
        ("size>20", "'20' is no size", "size>3B or size>3kB"),
        ("p99>1e999ms", "is no limit", "parity>2x"),
        ("p99>nan", "'nan' is no limit", "parity>2x"),
        ("parity>>2x", "is no limit|is no budget", "parity>2x"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(text: str, problem: str, remedy: str) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        parse(text)
    assert remedy in caught.value.remedy
    assert "\n" not in f"{caught.value}{caught.value.remedy}"


@settings(max_examples=500, deadline=None)
@given(text=draw.text(alphabet="parity99sizetop1<>@+-.0123456789xe%MB ms×", max_size=24))
def test_any_text_is_a_budget_or_bad_input(text: str) -> None:
    with suppress(BadInput):
        assert parse(text).figure in QUANTITIES


def judged(text: str, a: Side, b: Side) -> Outcome:
    return judge(parse(text), a, b).outcome


@pytest.mark.parametrize(
    ("text", "before", "after", "expected"),
    [
        ("parity>2x", 1e-6, 2e-6, HELD),  # exactly as much is allowed
        ("parity>2x", 1e-6, 2.1e-6, OVER),
        ("parity>2x", 0.0, 1e-9, UNKNOWN),  # any error is infinitely more than none
        ("parity>2x", 0.0, 0.0, HELD),
        ("parity>+1e-6", 0.0, 2e-6, OVER),
        ("p99>+5%", 10.0, 10.4, HELD),
        ("p99>+5%", 10.0, 10.6, OVER),
        ("p99>+5%", 10.0, 1.0, HELD),
        ("p99>+200us", 10.0, 10.1, HELD),
        ("p99>+200us", 10.0, 10.3, OVER),
        ("p99>3ms", 10.0, 2.9, HELD),
        ("p99>3ms", 1.0, 3.1, OVER),
        ("size>+10%", 1e6, 1.1e6, HELD),
        ("size>20MB", 30e6, 19e6, HELD),
        ("top1<-0.5%", 0.99, 0.986, HELD),
        ("top1<-0.5%", 0.99, 0.984, OVER),  # percentage points
        ("top1<-0.5%", 0.995, 0.990, HELD),
        ("top1<0%", 0.99, 0.5, HELD),
        ("top1<-0%", 0.99, 0.98, OVER),
        ("top1<99%", 0.5, 0.995, HELD),
        ("top1<99%", 1.0, 0.985, OVER),
        ("speedup<0.95x", 2.0, 1.8, OVER),
        ("size>0.9x", 1e6, 0.95e6, OVER),  # it was to shrink
    ],
)
def test_what_a_limit_means(text: str, before: float, after: float, expected: Outcome) -> None:
    figure = parse(text).figure
    a, b = (Side("run", "x", "m", "one", {}, {figure: {"graph": Value(value)}}) for value in (before, after))
    assert judged(text, a, b) is expected


def test_a_difference_that_is_not_sure_is_not_held_against_anyone() -> None:
    a, b = side(speedup=Value(2.0, 1.7, 2.3)), side(speedup=Value(1.8, 1.6, 2.0))
    found = judge(parse("speedup<0.95x"), a, b)
    assert (found.outcome, found.why) == (HELD, ("graph: 2 → 1.8, no significant difference",))
    assert judged("speedup<0.95x", a, side(speedup=Value(1.5, 1.4, 1.6))) is OVER
    assert judged("speedup<1.9", a, b) is OVER  # a value is a value


def test_what_was_not_measured_has_not_passed() -> None:
    a = Side("run", "a", "m", "one", {}, {"parity": {"graph": Value(1e-6), "engine": Value(1e-3)}})
    b = Side("run", "b", "m", "one", {}, {"parity": {"graph": Value(1e-6)}})
    for text in ("parity>2x", "parity>+5%", "parity>1", "p99>+5%", "parity@engine>2x"):
        assert judged(text, a, b) is UNKNOWN, text
    assert judged("parity@graph>2x", a, b) is HELD
    assert judged("parity>2x", b, a) is HELD  # what is new has nothing to be held against
    assert judged("parity>1e-4", b, a) is OVER  # but a value of its own
    assert judged("parity@engine>2x", b, a) is UNKNOWN
    over = Side("run", "b", "m", "one", {}, {"parity": {"graph": Value(1.0)}})
    assert judged("parity>2x", a, over) is OVER  # what is surely too much is not made better by what is missing


def test_speeds_of_two_machines_cannot_be_judged_but_by_their_value() -> None:
    a, b = side(p50=Value(1.0)), side(p50=Value(1.0), machine="another")
    found = judge(parse("p50>+5%"), a, b)
    assert (found.outcome, found.why) == (UNKNOWN, ("graph: measured on one and on another",))
    assert judged("p50>3ms", a, b) is HELD


def test_a_place_that_nobody_has_is_a_slip() -> None:
    with pytest.raises(BadInput, match="there is no 'hlave'") as caught:
        judge(parse("parity@hlave>2x"), side(parity=Value(1.0)), side(parity=Value(1.0)))
    assert "graph" in caught.value.remedy


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("fp16", PLACES[:2]),
        ("fp16/model.onnx", PLACES[:2]),
        (PLACES[1], PLACES[1:2]),
        ("ORT", PLACES[3:]),
        ("hal", ()),
    ],
)
def test_a_place_means_all_that_lies_in_it(place: str, meant: tuple[str, ...]) -> None:
    a = Side("run", "a", "m", "one", {}, {"parity": dict.fromkeys(PLACES, Value(1.0))})
    b = Side("run", "b", "m", "one", {}, {"parity": dict.fromkeys(PLACES, Value(3.0))})
    if not meant:
        with pytest.raises(BadInput):
            judge(parse(f"parity@{place}>2x"), a, b)
        return
    found = judge(parse(f"parity@{place}>2x"), a, b)
    assert found.why == tuple(f"{each}: 1 → 3" for each in meant)


GENEROUS = ("{0}>1x", "{0}>2x", "{0}>+0%", "{0}>+5%", "{0}<1x", "{0}<0.5x", "{0}<-0%", "{0}<-5%")


@settings(max_examples=150, deadline=None)
@given(one=sides(), form=draw.sampled_from(GENEROUS), figure=draw.sampled_from(sorted(QUANTITIES)))
def test_a_side_against_itself_keeps_every_budget_that_allows_it_to_stay(one: Side, form: str, figure: str) -> None:
    assert judged(form.format(figure), one, one) is (HELD if one.figures.get(figure) else UNKNOWN)


@settings(max_examples=150, deadline=None)
@given(a=sides(), b=sides(), figure=draw.sampled_from(sorted(QUANTITIES)), limit=draw.floats(1.01, 100.0))
def test_what_grew_beyond_a_factor_shrank_below_its_inverse(a: Side, b: Side, figure: str, limit: float) -> None:
    there, back = f"{figure}>{limit!r}x", f"{figure}<{1 / limit:.17g}x"
    places = [set(each.figures.get(figure, {})) for each in (a, b)]
    if places[0] == places[1] and all(
        value.value > 0 for side in (a, b) for value in side.figures.get(figure, {}).values()
    ):
        assert judged(there, a, b) is judged(back, b, a)


def test_the_worst_of_all_counts() -> None:
    held, over, unknown = (BudgetResult("b", each, ("w",)) for each in (HELD, OVER, UNKNOWN))
    assert outcome([]) is HELD
    assert outcome([held, unknown]) is UNKNOWN
    assert outcome([unknown, over, held]) is OVER
    assert list(lines([over, unknown])) == ["b: over: w", "b: cannot be judged: w"]
