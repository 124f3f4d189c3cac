"""`deploytool diff`: compares two runs, bundles, sweeps or device results, with budgets for CI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploytool.cli import console as cli_console
from deploytool.cli import diff_rows, diff_sweeps
from deploytool.cli.command import Outcome
from deploytool.errors import DeployError, NotVerified, OverBudget

if TYPE_CHECKING:
    from deploytool.diff.budgets import BudgetResult
    from deploytool.diff.compare import Difference, Side

_REASONS = 40  # of budgets that are shown; --json has all
_WITH_INTERVAL = "speedup"  # shown in its own table, with intervals
_A_HELP = "A run, a bundle, a sweep, or a file with the output of `verify --json` or `bench --json` on a device."


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
    side_a, side_b = sides.read_both(a, b)
    difference = compare(side_a, side_b)
    results = [budgets.judge(budget, side_a, side_b) for budget in parsed]
    _show(side_a, side_b, difference, results)
    result = {"a": side_a, "b": side_b, "difference": difference, "budgets": results}
    return Outcome({"result": result}, _verdict(difference, results), _failure(results, side_a.kind))


def _failure(results: list[BudgetResult], kind: str) -> DeployError | None:
    from deploytool.diff import sweep_side
    from deploytool.diff.budgets import Outcome, lines, outcome

    worst = outcome(results)
    if worst is Outcome.WITHIN:
        return None
    reasons = "; ".join(_first(lines(result for result in results if result.outcome is worst)))
    if worst is Outcome.OVER:
        return OverBudget(reasons, "fix the regression, or raise the limit")
    remedy = "measure both sides on one machine, or limit the budget with FIGURE@SUBJECT"
    if kind == sweep_side.SWEEP:
        remedy = "make the same cells on both sides, speeds on one machine, or limit the budget with FIGURE@CELL"
    return NotVerified(reasons, remedy)


def _first(reasons: Iterable[str]) -> Iterator[str]:
    """The first reasons, and how many more there are: a sweep may have one for each cell."""
    listed = list(reasons)
    yield from listed[:_REASONS]
    if len(listed) > _REASONS:
        yield f"and {len(listed) - _REASONS} more"


def _show(a: Side, b: Side, difference: Difference, results: list[BudgetResult]) -> None:
    """Prints changed facts, changed figures, budgets, and the verdict as the last line."""
    from deploytool.diff import sweep_side
    from deploytool.diff.budgets import lines

    console = cli_console.stdout_console()
    cli_console.say(console, f"A: {a.kind} {a.path}, {a.model}")
    cli_console.say(console, f"B: {b.kind} {b.path}, {b.model}")
    if difference.facts:
        rows = [(fact.name, diff_rows.fact(fact.a), diff_rows.fact(fact.b)) for fact in difference.facts]
        cli_console.table(console, "Changed facts", ("", "A", "B"), rows)
    if a.kind == sweep_side.SWEEP:
        diff_sweeps.show(console, difference)
    else:
        _show_figures(console, difference)
    for line in _first(lines(results)):
        cli_console.say(console, line)
    cli_console.say(console, _verdict(difference, results))


def _show_figures(console: Console, difference: Difference) -> None:
    figures = [diff_rows.row(change) for change in difference.figures if change.quantity != _WITH_INTERVAL]
    speed_ups = [diff_rows.row(change)[1:] for change in difference.figures if change.quantity == _WITH_INTERVAL]
    if figures:
        cli_console.table(console, "Changed figures", ("figure", "subject", ">A", ">B", "change"), figures)
    if speed_ups:
        columns = ("subject", ">A", ">B", "change")
        cli_console.table(console, "Speed-up over the original (95 % interval)", columns, speed_ups)


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
    """The number of facts and figures that differ, of cells in another state, and of figures that one side lacks."""
    if difference.empty:
        return "the same"
    one_sided = sum(change.a is None or change.b is None for change in difference.figures)
    more = f", {one_sided} more figures are on one side only" if one_sided else ""
    cells = f"{len(difference.states)} cells, " if difference.states else ""
    return f"{cells}{len(difference.facts)} facts and {len(difference.figures) - one_sided} figures differ{more}"
