"""Budgets: syntax, meaning of each kind of limit, and that what was not measured has not passed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from deploytool.diff.budgets import Budget, BudgetResult, Margin, Outcome, judge, lines, outcome, parse
from deploytool.diff.compare import Side, Value
from deploytool.diff.quantities import QUANTITIES
from deploytool.errors import BadInput
from tests.diff.drawn import SUBJECTS, side, sides

WITHIN, OVER, UNDECIDED = Outcome.WITHIN, Outcome.OVER, Outcome.UNDECIDED


@pytest.mark.parametrize(
    ("text", "figure", "subject", "above", "margin", "limit"),
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
def test_valid_budgets(text: str, figure: str, subject: str | None, above: bool, margin: Margin, limit: float) -> None:
    budget = parse(text)
    assert budget == Budget(text.strip(), figure, subject, above, margin, budget.limit)
    assert budget.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("", "is not a budget", "parity>2x"),
        ("parity", "is not a budget", "parity>2x"),
        ("parity=2x", "is not a budget", "parity>2x"),
        ("parity>", "is not a budget", "parity>2x"),
        (">2x", "is not a budget", "parity>2x"),
        ("parity@>2x", "is not a budget", "parity>2x"),
        ("pairty>2x", "unknown figure 'pairty'", "parity, noise, tolerance"),
        ("P99>2x", "unknown figure 'P99'", "p99"),
        ("parity>two", "'two' is not a limit", "parity>2x"),
        ("parity>2xx", "'2xx' is not a limit for parity", "parity>2x"),
        ("parity>5%", "'5%' is not a limit for parity", "parity>+5%"),
        ("parity>+2x", r"'\+2x' is not a limit for parity", "parity>2x"),
        ("p99>3MB", "'3MB' is not a limit for p99", "p99>3us or p99>3ms"),
        ("size>3ms", "'3ms' is not a limit for size", "size>3B or size>3kB"),
        ("size>20", "'20' is not a limit for size", "size>3B or size>3kB"),
        ("p99>1e999ms", "is not a limit", "parity>2x"),
        ("p99>nan", "'nan' is not a limit", "parity>2x"),
        ("parity>>2x", "is not a limit|is not a budget", "parity>2x"),
    ],
)
def test_invalid_budgets_are_rejected_with_a_remedy(text: str, problem: str, remedy: str) -> None:
    with pytest.raises(BadInput, match=problem) as error:
        parse(text)
    assert remedy in error.value.remedy
    assert "\n" not in f"{error.value}{error.value.remedy}"


@settings(max_examples=500, deadline=None)
@given(text=draw.text(alphabet="parity99sizetop1<>@+-.0123456789xe%MB ms×", max_size=24))
def test_any_text_is_a_budget_or_raises_bad_input(text: str) -> None:
    with suppress(BadInput):
        assert parse(text).figure in QUANTITIES


def judged(text: str, a: Side, b: Side) -> Outcome:
    return judge(parse(text), a, b).outcome


@pytest.mark.parametrize(
    ("text", "before", "after", "expected"),
    [
        ("parity>2x", 1e-6, 2e-6, WITHIN),  # equal to the limit
        ("parity>2x", 1e-6, 2.1e-6, OVER),
        ("parity>2x", 0.0, 1e-9, UNDECIDED),  # no factor over zero
        ("parity>2x", 0.0, 0.0, WITHIN),
        ("parity>+1e-6", 0.0, 2e-6, OVER),
        ("p99>+5%", 10.0, 10.4, WITHIN),
        ("p99>+5%", 10.0, 10.6, OVER),
        ("p99>+5%", 10.0, 1.0, WITHIN),
        ("p99>+200us", 10.0, 10.1, WITHIN),
        ("p99>+200us", 10.0, 10.3, OVER),
        ("p99>3ms", 10.0, 2.9, WITHIN),
        ("p99>3ms", 1.0, 3.1, OVER),
        ("size>+10%", 1e6, 1.1e6, WITHIN),
        ("size>20MB", 30e6, 19e6, WITHIN),
        ("top1<-0.5%", 0.99, 0.986, WITHIN),
        ("top1<-0.5%", 0.99, 0.984, OVER),  # percentage points
        ("top1<-0.5%", 0.995, 0.990, WITHIN),
        ("top1<0%", 0.99, 0.5, WITHIN),
        ("top1<-0%", 0.99, 0.98, OVER),
        ("top1<99%", 0.5, 0.995, WITHIN),
        ("top1<99%", 1.0, 0.985, OVER),
        ("speedup<0.95x", 2.0, 1.8, OVER),
        ("size>0.9x", 1e6, 0.95e6, OVER),  # the budget requires a smaller file
    ],
)
def test_the_meaning_of_limits(text: str, before: float, after: float, expected: Outcome) -> None:
    figure = parse(text).figure
    a, b = (Side("run", "x", "m", "one", {}, {figure: {"graph": Value(value)}}) for value in (before, after))
    assert judged(text, a, b) is expected


def test_an_insignificant_difference_is_within_budget() -> None:
    a, b = side(speedup=Value(2.0, 1.7, 2.3)), side(speedup=Value(1.8, 1.6, 2.0))
    result = judge(parse("speedup<0.95x"), a, b)
    assert (result.outcome, result.reasons) == (WITHIN, ("graph: 2 → 1.8, no significant difference",))
    assert judged("speedup<0.95x", a, side(speedup=Value(1.5, 1.4, 1.6))) is OVER
    assert judged("speedup<1.9", a, b) is OVER  # a limit for the value ignores intervals


def test_what_was_not_measured_has_not_passed() -> None:
    a = Side("run", "a", "m", "one", {}, {"parity": {"graph": Value(1e-6), "engine": Value(1e-3)}})
    b = Side("run", "b", "m", "one", {}, {"parity": {"graph": Value(1e-6)}})
    for text in ("parity>2x", "parity>+5%", "parity>1", "p99>+5%", "parity@engine>2x"):
        assert judged(text, a, b) is UNDECIDED, text
    assert judged("parity@graph>2x", a, b) is WITHIN
    assert judged("parity>2x", b, a) is WITHIN  # a new subject has no change
    assert judged("parity>1e-4", b, a) is OVER  # but it has a value
    assert judged("parity@engine>2x", b, a) is UNDECIDED
    over = Side("run", "b", "m", "one", {}, {"parity": {"graph": Value(1.0)}})
    assert judged("parity>2x", a, over) is OVER  # over budget wins over missing measurements


def test_speeds_of_different_machines_can_only_be_judged_by_value() -> None:
    a, b = side(p50=Value(1.0)), side(p50=Value(1.0), machine="another")
    result = judge(parse("p50>+5%"), a, b)
    assert (result.outcome, result.reasons) == (UNDECIDED, ("graph: measured on different machines (one, another)",))
    assert judged("p50>3ms", a, b) is WITHIN


def test_an_unknown_subject_is_bad_input() -> None:
    with pytest.raises(BadInput, match="unknown subject 'hlave'") as error:
        judge(parse("parity@hlave>2x"), side(parity=Value(1.0)), side(parity=Value(1.0)))
    assert "graph" in error.value.remedy


@pytest.mark.parametrize(
    ("name", "subjects"),
    [
        ("fp16", SUBJECTS[:2]),
        ("fp16/model.onnx", SUBJECTS[:2]),
        (SUBJECTS[1], SUBJECTS[1:2]),
        ("ORT", SUBJECTS[3:]),
        ("hal", ()),
    ],
)
def test_a_subject_includes_its_parts(name: str, subjects: tuple[str, ...]) -> None:
    a = Side("run", "a", "m", "one", {}, {"parity": dict.fromkeys(SUBJECTS, Value(1.0))})
    b = Side("run", "b", "m", "one", {}, {"parity": dict.fromkeys(SUBJECTS, Value(3.0))})
    if not subjects:
        with pytest.raises(BadInput):
            judge(parse(f"parity@{name}>2x"), a, b)
        return
    result = judge(parse(f"parity@{name}>2x"), a, b)
    assert result.reasons == tuple(f"{subject}: 1 → 3" for subject in subjects)


ALLOW_NO_CHANGE = ("{0}>1x", "{0}>2x", "{0}>+0%", "{0}>+5%", "{0}<1x", "{0}<0.5x", "{0}<-0%", "{0}<-5%")


@settings(max_examples=150, deadline=None)
@given(same=sides(), form=draw.sampled_from(ALLOW_NO_CHANGE), figure=draw.sampled_from(sorted(QUANTITIES)))
def test_a_side_against_itself_is_within_every_budget_that_allows_no_change(same: Side, form: str, figure: str) -> None:
    assert judged(form.format(figure), same, same) is (WITHIN if same.figures.get(figure) else UNDECIDED)


@settings(max_examples=150, deadline=None)
@given(a=sides(), b=sides(), figure=draw.sampled_from(sorted(QUANTITIES)), limit=draw.floats(1.01, 100.0))
def test_a_factor_limit_and_its_inverse_agree_on_swapped_sides(a: Side, b: Side, figure: str, limit: float) -> None:
    forward, backward = f"{figure}>{limit!r}x", f"{figure}<{1 / limit:.17g}x"
    subjects = [set(side.figures.get(figure, {})) for side in (a, b)]
    if subjects[0] == subjects[1] and all(
        value.value > 0 for side in (a, b) for value in side.figures.get(figure, {}).values()
    ):
        assert judged(forward, a, b) is judged(backward, b, a)


def test_the_worst_outcome_counts() -> None:
    within, over, undecided = (BudgetResult("b", each, ("w",)) for each in (WITHIN, OVER, UNDECIDED))
    assert outcome([]) is WITHIN
    assert outcome([within, undecided]) is UNDECIDED
    assert outcome([undecided, over, within]) is OVER
    assert list(lines([over, undecided])) == ["b: over budget: w", "b: undecided: w"]
