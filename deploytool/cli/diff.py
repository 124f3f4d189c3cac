"""`deploytool diff`: compares two runs, bundles or device results, with budgets for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.errors import DeployError, NotVerified, OverBudget
from deploytool.host import disk

if TYPE_CHECKING:
    from deploytool.diff.budgets import BudgetResult
    from deploytool.diff.compare import Difference, FigureChange, Side, Value

_NONE = "–"
_WITH_INTERVAL = "speedup"  # shown in its own table, with intervals
_DIGEST = 64  # characters of a SHA-256
_A_HELP = "A run, a bundle, or a file with the output of `verify --json` or `bench --json` on a device."


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=_A_HELP)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The side that A is compared with, in any of these forms.")],
    fail_if: Annotated[
        list[str] | None, typer.Option(metavar="BUDGET", help="FIGURE[@SUBJECT]>LIMIT: parity>2x, p99>+5%, size>20MB.")
    ] = None,
) -> Outcome:
    """Shows what changed from A to B and by how much, and fails if a budget is exceeded.

    2x is a factor of B over A, +5% a change, and 20MB the value of B. Shares change by percentage points: top1<-0.5%.
    Examples: deploytool diff old new · deploytool diff old new --fail-if "parity>2x" --fail-if "size>+10%"
    """
    from deploytool.diff import budgets, sides  # imports numpy
    from deploytool.diff.compare import compare

    parsed = [budgets.parse(text) for text in fail_if or ()]
    side_a, side_b = sides.read(a), sides.read(b)
    difference = compare(side_a, side_b)
    results = [budgets.judge(budget, side_a, side_b) for budget in parsed]
    _show(side_a, side_b, difference, results)
    result = {"a": side_a, "b": side_b, "difference": difference, "budgets": results}
    return Outcome({"result": result}, _verdict(difference, results), _failure(results))


def _failure(results: list[BudgetResult]) -> DeployError | None:
    from deploytool.diff.budgets import Outcome, lines, outcome

    worst = outcome(results)
    if worst is Outcome.WITHIN:
        return None
    reasons = "; ".join(lines(result for result in results if result.outcome is worst))
    if worst is Outcome.OVER:
        return OverBudget(reasons, "fix the regression, or raise the limit")
    return NotVerified(reasons, "measure both sides on one machine, or limit the budget with FIGURE@SUBJECT")


def _show(a: Side, b: Side, difference: Difference, results: list[BudgetResult]) -> None:
    """Prints changed facts, changed figures, budgets, and the verdict as the last line."""
    from deploytool.diff.budgets import lines

    console = cli_console.stdout_console()
    cli_console.say(console, f"A: {a.kind} {a.path}, {a.model}")
    cli_console.say(console, f"B: {b.kind} {b.path}, {b.model}")
    if difference.facts:
        rows = [(fact.name, _fact(fact.a), _fact(fact.b)) for fact in difference.facts]
        cli_console.table(console, "Changed facts", ("", "A", "B"), rows)
    figures = [_row(change) for change in difference.figures if change.quantity != _WITH_INTERVAL]
    speed_ups = [_row(change)[1:] for change in difference.figures if change.quantity == _WITH_INTERVAL]
    if figures:
        cli_console.table(console, "Changed figures", ("figure", "subject", ">A", ">B", "change"), figures)
    if speed_ups:
        columns = ("subject", ">A", ">B", "change")
        cli_console.table(console, "Speed-up over the original (95 % interval)", columns, speed_ups)
    for line in lines(results):
        cli_console.say(console, line)
    cli_console.say(console, _verdict(difference, results))


def _row(change: FigureChange) -> tuple[str, ...]:
    """Quantity, subject, value in A, value in B, and the change."""
    return (change.quantity, change.subject, _value(change, change.a), _value(change, change.b), _amount(change))


def _fact(text: str | None) -> str:
    """A fact as text; digests are shortened."""
    if text is None:
        return _NONE
    return text[:12] if len(text) == _DIGEST and text.isalnum() else text


def _value(change: FigureChange, value: Value | None) -> str:
    """A value with its unit and interval."""
    if value is None:
        return _NONE
    number, interval = value.value, ""
    if value.low is not None and value.high is not None:
        interval = f" ({value.low:.2f}–{value.high:.2f})"
    forms = {
        **dict.fromkeys(("parity", "tolerance", "smallest_caught"), f"{number:.1e}"),
        **dict.fromkeys(("p50", "p90", "p99"), f"{number:.2f} ms"),
        **dict.fromkeys(("noise", "speedup"), f"{number:.2f}×"),
        **dict.fromkeys(("top1", "top5", "accuracy", "fp16_layers", "caught"), f"{number:.1%}"),
        "size": disk.size(number),
        "build_time": f"{number:.1f} s",
    }
    return forms.get(change.quantity, f"{number:.4g}") + interval


def _amount(change: FigureChange) -> str:
    """The amount of a change, and whether it is better or worse."""
    from deploytool.diff.quantities import QUANTITIES

    quantity = QUANTITIES[change.quantity]
    if change.a is None or change.b is None:
        return "only in B" if change.a is None else "only in A"
    if not change.comparable:
        return "other machine"
    if change.significant is False:
        return "no significant difference"
    more = change.b.value > change.a.value
    direction = "worse" if more == quantity.more_is_worse else "better"
    if quantity.share:
        return f"{(change.b.value - change.a.value) * 100:+.1f} points, {direction}"
    if change.factor is None:
        return direction
    if quantity.units.keys() & {"ms", "MB"}:
        return f"{change.factor - 1:+.1%}, {direction}"
    return f"{change.factor:.3g}×, {direction}"


def _verdict(difference: Difference, results: list[BudgetResult]) -> str:
    """The last line: outcome of the budgets, and the number of differences."""
    from deploytool.diff.budgets import Outcome, outcome

    if not results:
        return f"Verdict: {_count(difference)}."
    worst = outcome(results)
    budgets = ", ".join(result.budget for result in results if result.outcome is worst)
    texts = {
        Outcome.WITHIN: f"within budget ({len(results)} of {len(results)})",
        Outcome.OVER: f"FAIL, over budget: {budgets}",
        Outcome.UNDECIDED: f"not verified: {budgets} cannot be judged",
    }
    return f"Verdict: {texts[worst]}; {_count(difference)}."


def _count(difference: Difference) -> str:
    """The number of facts and figures that differ, and of figures that only one side has."""
    if difference.empty:
        return "the same"
    one_sided = sum(change.a is None or change.b is None for change in difference.figures)
    more = f", {one_sided} more figures are on one side only" if one_sided else ""
    return f"{len(difference.facts)} facts and {len(difference.figures) - one_sided} figures differ{more}"
