"""Budgets: `parity>2x`, `p99>+5%`, `top1<-0.5%`, `size@halve>20MB`: what one may say, and whether it was kept.

    FIGURE[@PLACE] > or < LIMIT

A limit with `x` is a factor of B over A; one with a sign is a change from A to B, in percent (of shares: percentage
points) or in the figure's own unit; one with neither is B's own value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from deploytool.diff import Shift, Side, shifts
from deploytool.diff.quantities import QUANTITIES, Quantity
from deploytool.errors import BadInput
from deploytool.spec import Stage

_BUDGET = re.compile(
    r"\s*(?P<figure>[A-Za-z]\w*)\s*(?:@\s*(?P<place>[^<>@]*[^<>@\s]))?\s*(?P<sign>[<>])\s*(?P<limit>\S.*?)\s*"
)
_LIMIT = re.compile(r"(?P<change>[+-]?)(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+) ?(?P<unit>[a-zA-Z%×]*)")
_FACTORS = ("x", "×")
_SLACK = 1e-9  # of the limit: a change of exactly as much is not beyond it, however it is rounded
_HOW = f"write parity>2x, p99>+5%, size@{Stage.FP16}>20MB or top1<-0.5%"


class Margin(str, Enum):
    """What of a figure a limit is for."""

    FACTOR = "factor"
    PERCENT = "percent"
    CHANGE = "change"
    VALUE = "value"


class Outcome(str, Enum):
    """What became of a budget."""

    HELD = "held"
    OVER = "over"
    UNKNOWN = "cannot be judged"


@dataclass(frozen=True)
class Budget:
    """One budget as it was written; `limit` is in the figure's own unit, and percent as a share."""

    text: str
    figure: str
    place: str | None
    above: bool
    by: Margin
    limit: float


@dataclass(frozen=True)
class BudgetResult:
    """A budget, what became of it, and why, one line for each place that matters."""

    budget: str
    outcome: Outcome
    why: tuple[str, ...]


def parse(text: str) -> Budget:
    """The budget that a text names. Raises BadInput, with what may be written, for a text that names none."""
    found = _BUDGET.fullmatch(text)
    if found is None:
        raise BadInput(f"--fail-if {text!r} is no budget", _HOW)
    quantity = QUANTITIES.get(found["figure"])
    if quantity is None:
        raise BadInput(f"--fail-if {text!r}: there is no figure {found['figure']!r}", f"known: {', '.join(QUANTITIES)}")
    by, limit = _limit(text, found["figure"], quantity, found["limit"])
    return Budget(text.strip(), found["figure"], found["place"], found["sign"] == ">", by, limit)


def _limit(text: str, figure: str, quantity: Quantity, written: str) -> tuple[Margin, float]:
    found = _LIMIT.fullmatch(written)
    if found is None:
        raise BadInput(f"--fail-if {text!r}: {written!r} is no limit", _HOW)
    number, unit = float(found["number"]) * (-1 if found["change"] == "-" else 1), found["unit"]
    if not number < float("inf"):
        raise BadInput(f"--fail-if {text!r}: {written!r} is no limit", _HOW)
    if unit in _FACTORS and not found["change"]:
        return Margin.FACTOR, number
    if unit == "%" and found["change"]:
        return Margin.PERCENT, number / 100
    if unit not in quantity.units:
        units = " or ".join(f"{figure}>3{unit}" for unit in list(quantity.units)[:2])
        raise BadInput(f"--fail-if {text!r}: {written!r} is no {figure}", f"write {units}, {figure}>2x or {figure}>+5%")
    return (Margin.CHANGE if found["change"] else Margin.VALUE), number * quantity.units[unit]


def judge(budget: Budget, a: Side, b: Side) -> BudgetResult:
    """Whether a budget was kept from `a` to `b`.

    It is over where one place is beyond it, unless the intervals of the two overlap. It cannot be judged where a place
    that was measured before is not measured now, or on another machine, or nowhere at all: what was not measured has
    not passed. Raises BadInput for a place that neither side has.
    """
    found = [shift for shift in shifts(a, b) if shift.quantity == budget.figure and _meant(budget, shift.place)]
    if budget.place and not found:
        _known(budget, a, b)
    over: list[str] = []
    unknown: list[str] = []
    unsure: list[str] = []
    for shift in found:
        if why := _unknown(budget, shift, a, b):
            unknown.append(why)
        elif _beyond(budget, shift):
            (unsure if shift.sure is False and budget.by is not Margin.VALUE else over).append(_told(shift))
    judged = [shift for shift in found if _judged(budget, shift)]
    if over:
        return BudgetResult(budget.text, Outcome.OVER, tuple(over))
    if unknown or not judged:
        return BudgetResult(budget.text, Outcome.UNKNOWN, tuple(unknown) or (f"{budget.figure} is measured nowhere",))
    return BudgetResult(budget.text, Outcome.HELD, tuple(f"{line}, no significant difference" for line in unsure))


def _meant(budget: Budget, place: str) -> bool:
    """Whether a place is the one that a budget names, or lies in it: `fp16` means all of that stage."""
    wanted = budget.place
    return wanted is None or place == wanted or place.startswith((f"{wanted}/", f"{wanted} "))


def _known(budget: Budget, a: Side, b: Side) -> None:
    places = sorted({shift.place for shift in shifts(a, b)})
    if not any(_meant(budget, place) for place in places):
        raise BadInput(f"--fail-if {budget.text!r}: there is no {budget.place!r}", f"known: {', '.join(places)}")


def _judged(budget: Budget, shift: Shift) -> bool:
    """Whether a place has what the budget is about: of a new one only the value can be judged."""
    return shift.b is not None and (budget.by is Margin.VALUE or shift.a is not None)


def _unknown(budget: Budget, shift: Shift, a: Side, b: Side) -> str | None:
    if shift.b is None:
        return f"{shift.place}: not measured in {b.path}"
    if budget.by is Margin.VALUE or shift.a is None:
        return None
    if not shift.comparable:
        return f"{shift.place}: measured on {a.machine or 'no machine'} and on {b.machine or 'no machine'}"
    return f"{shift.place}: there is no factor of nothing" if _change(budget, shift) is None else None


def _beyond(budget: Budget, shift: Shift) -> bool:
    change = _change(budget, shift)
    if change is None:
        return False
    beyond = change - budget.limit if budget.above else budget.limit - change
    return beyond > _SLACK * abs(budget.limit)


def _change(budget: Budget, shift: Shift) -> float | None:
    """What of a figure is held against the limit; None where there is none."""
    if shift.b is None or budget.by is Margin.VALUE:
        return None if shift.b is None else shift.b.value
    if shift.a is None:
        return None
    if budget.by is Margin.CHANGE or (budget.by is Margin.PERCENT and QUANTITIES[shift.quantity].share):
        return shift.b.value - shift.a.value
    if shift.factor is None:
        return None
    return shift.factor if budget.by is Margin.FACTOR else shift.factor - 1


def _told(shift: Shift) -> str:
    values = [f"{each.value:.4g}" for each in (shift.a, shift.b) if each is not None]
    return f"{shift.place}: {' → '.join(values)}"


def outcome(judged: Sequence[BudgetResult]) -> Outcome:
    """What became of all of them: over if one is, unknown if one cannot be judged."""
    seen = {each.outcome for each in judged}
    return next((worst for worst in (Outcome.OVER, Outcome.UNKNOWN) if worst in seen), Outcome.HELD)


def lines(judged: Iterable[BudgetResult]) -> Iterator[str]:
    """One line for every budget that was not simply held."""
    for each in judged:
        for why in each.why:
            yield f"{each.budget}: {each.outcome.value}: {why}"
