"""Parses and judges budgets such as `parity>2x`, `p99>+5%`, `top1<-0.5%` or `size@fp16>20MB`.

    FIGURE[@SUBJECT] > or < LIMIT

A limit with `x` is a factor of B over A. A limit with a sign is a change from A to B, in percent (for shares:
percentage points) or in the unit of the figure. Any other limit is for the value of B.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from deploytool.diff.compare import FigureChange, Side, figure_changes
from deploytool.diff.quantities import QUANTITIES, Quantity
from deploytool.errors import BadInput
from deploytool.host import rounded
from deploytool.spec import Stage

_BUDGET = re.compile(
    r"\s*(?P<figure>[A-Za-z]\w*)\s*(?:@\s*(?P<subject>[^<>@]*[^<>@\s]))?\s*(?P<sign>[<>])\s*(?P<limit>\S.*?)\s*"
)
_LIMIT = re.compile(r"(?P<change>[+-]?)(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+) ?(?P<unit>[a-zA-Z%×]*)")
_FACTOR_UNITS = ("x", "×")
_ROUNDING = 1e-9  # relative to the limit: a change equal to the limit is within it, whatever the rounding
_LISTED = 40  # subjects in a message
_EXAMPLES = f"write parity>2x, p99>+5%, size@{Stage.FP16}>20MB or top1<-0.5%"


class Margin(str, Enum):
    """What a limit applies to."""

    FACTOR = "factor"
    PERCENT = "percent"
    CHANGE = "change"
    VALUE = "value"


class Outcome(str, Enum):
    """The result of judging a budget."""

    WITHIN = "within budget"
    OVER = "over budget"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Budget:
    """A parsed budget; `limit` is in the unit of the figure, and a percentage as a share."""

    text: str
    figure: str
    subject: str | None
    above: bool
    margin: Margin
    limit: float


@dataclass(frozen=True)
class BudgetResult:
    """The outcome of a budget, with one line for each subject that explains it."""

    budget: str
    outcome: Outcome
    reasons: tuple[str, ...]


def parse(text: str) -> Budget:
    """The budget in `text`; raises BadInput, with examples of the syntax, if it is malformed."""
    match = _BUDGET.fullmatch(text)
    if match is None:
        raise BadInput(f"--fail-if: {text!r} is not a budget", _EXAMPLES)
    figure = match["figure"]
    quantity = QUANTITIES.get(figure)
    if quantity is None:
        raise BadInput(f"--fail-if {text!r}: unknown figure {figure!r}", f"known: {', '.join(QUANTITIES)}")
    margin, limit = _parse_limit(text, figure, quantity, match["limit"])
    return Budget(text.strip(), figure, match["subject"], match["sign"] == ">", margin, limit)


def _parse_limit(text: str, figure: str, quantity: Quantity, limit: str) -> tuple[Margin, float]:
    match = _LIMIT.fullmatch(limit)
    if match is None or float(match["number"]) == float("inf"):
        raise BadInput(f"--fail-if {text!r}: {limit!r} is not a limit", _EXAMPLES)
    number, unit = float(match["number"]) * (-1 if match["change"] == "-" else 1), match["unit"]
    if unit in _FACTOR_UNITS and not match["change"]:
        return Margin.FACTOR, number
    if unit == "%" and match["change"]:
        return Margin.PERCENT, number / 100
    if unit not in quantity.units:
        examples = " or ".join(f"{figure}>3{known}" for known in list(quantity.units)[:2])
        remedy = f"write {examples}, {figure}>2x or {figure}>+5%"
        raise BadInput(f"--fail-if {text!r}: {limit!r} is not a limit for {figure}", remedy)
    return (Margin.CHANGE if match["change"] else Margin.VALUE), number * quantity.units[unit]


def judge(budget: Budget, a: Side, b: Side) -> BudgetResult:
    """The outcome of a budget for the change from `a` to `b`.

    It is over if one subject exceeds the limit, unless the intervals of both sides overlap. It is undecided if a
    subject that was measured in `a` is missing in `b` or was measured on another machine, or if there is no subject:
    what was not measured has not passed. Raises BadInput for a subject that neither side has.
    """
    changes = [
        change
        for change in figure_changes(a, b)
        if change.quantity == budget.figure and _applies(budget, change.subject)
    ]
    if budget.subject and not changes:
        _check_subject(budget, a, b)
    over: list[str] = []
    undecided: list[str] = []
    insignificant: list[str] = []
    for change in changes:
        if reason := _why_undecided(budget, change, a, b):
            undecided.append(reason)
        elif _exceeds(budget, change):
            overlap = change.significant is False and budget.margin is not Margin.VALUE
            (insignificant if overlap else over).append(_describe(change))
    if over:
        return BudgetResult(budget.text, Outcome.OVER, tuple(over))
    if undecided or not any(_can_be_judged(budget, change) for change in changes):
        reasons = tuple(undecided) or (f"no measurement of {budget.figure}",)
        return BudgetResult(budget.text, Outcome.UNDECIDED, reasons)
    return BudgetResult(
        budget.text, Outcome.WITHIN, tuple(f"{line}, no significant difference" for line in insignificant)
    )


def _applies(budget: Budget, subject: str) -> bool:
    """Whether a budget is for a subject: the same name, or a part of it, as `fp16/model.onnx` is of `fp16`."""
    name = budget.subject
    return name is None or subject == name or subject.startswith((f"{name}/", f"{name} "))


def _check_subject(budget: Budget, a: Side, b: Side) -> None:
    """Raises BadInput if neither side has the subject of the budget in any figure."""
    subjects = sorted({change.subject for change in figure_changes(a, b)})
    if not any(_applies(budget, subject) for subject in subjects):
        more = f" and {len(subjects) - _LISTED} more" if len(subjects) > _LISTED else ""
        known = f"known: {', '.join(subjects[:_LISTED])}{more}"
        raise BadInput(f"--fail-if {budget.text!r}: unknown subject {budget.subject!r}", known)


def _can_be_judged(budget: Budget, change: FigureChange) -> bool:
    """Whether the needed values exist: a subject that is new in B can be judged by its value only."""
    return change.b is not None and (budget.margin is Margin.VALUE or change.a is not None)


def _why_undecided(budget: Budget, change: FigureChange, a: Side, b: Side) -> str | None:
    if change.b is None:
        return f"{change.subject}: not measured in {b.path}"
    if budget.margin is Margin.VALUE or change.a is None:
        return None
    if not change.comparable:
        machines = (side.machine_of(change.subject) or "unknown" for side in (a, b))
        return f"{change.subject}: measured on different machines ({', '.join(machines)})"
    return f"{change.subject}: no factor, the value in A is 0" if _amount(budget, change) is None else None


def _exceeds(budget: Budget, change: FigureChange) -> bool:
    amount = _amount(budget, change)
    if amount is None:
        return False
    excess = amount - budget.limit if budget.above else budget.limit - amount
    return excess > _ROUNDING * abs(budget.limit)


def _amount(budget: Budget, change: FigureChange) -> float | None:
    """The number that is compared with the limit: value, change or factor; None if it is undefined."""
    if change.b is None or budget.margin is Margin.VALUE:
        return None if change.b is None else change.b.value
    if change.a is None:
        return None
    if budget.margin is Margin.CHANGE or (budget.margin is Margin.PERCENT and QUANTITIES[change.quantity].share):
        return change.b.value - change.a.value
    if change.factor is None:
        return None
    return change.factor if budget.margin is Margin.FACTOR else change.factor - 1


def _describe(change: FigureChange) -> str:
    if change.a is None or change.b is None:
        values = [_significant(value.value, 4) for value in (change.a, change.b) if value is not None]
    else:
        values = [*rounded.apart(change.a.value, change.b.value, _significant, 4)]
    return f"{change.subject}: {' → '.join(values)}"


def _significant(value: float, digits: int) -> str:
    return f"{value:.{digits}g}"


def outcome(results: Sequence[BudgetResult]) -> Outcome:
    """The worst outcome: over if any budget is, else undecided if any is."""
    outcomes = {result.outcome for result in results}
    return next((worst for worst in (Outcome.OVER, Outcome.UNDECIDED) if worst in outcomes), Outcome.WITHIN)


def lines(results: Iterable[BudgetResult]) -> Iterator[str]:
    """One line for each reason of each budget."""
    for result in results:
        for reason in result.reasons:
            yield f"{result.budget}: {result.outcome.value}: {reason}"
