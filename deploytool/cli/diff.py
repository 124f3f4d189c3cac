"""`deploytool diff`: two runs, two bundles, or what a device brought home, side by side, with budgets for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.errors import DeployError, NotVerified, OverBudget
from deploytool.host import disk

if TYPE_CHECKING:
    from deploytool.diff import Difference, Shift, Side, Value
    from deploytool.diff.budgets import BudgetResult

_NONE = "–"
_TIMED = "speedup"  # the one with intervals, which need a table of their own
_DIGEST = 64  # letters of a SHA-256
_What = "A run, a bundle, or a file with what `verify` or `bench` printed there with --json."


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=_What)],
    b: Annotated[Path, typer.Argument(metavar="B", help="What A is compared with: a run, a bundle, or such a file.")],
    fail_if: Annotated[
        list[str] | None, typer.Option(metavar="BUDGET", help="FIGURE[@PLACE]>LIMIT: parity>2x, p99>+5%, size>20MB.")
    ] = None,
) -> Outcome:
    """Says what changed from A to B, by how much, and fails if a budget was exceeded.

    2x is a factor of B over A; +5% a change; 20MB B's own value. Shares change by percentage points: top1<-0.5%.
    Examples: deploytool diff old new · deploytool diff old new --fail-if "parity>2x" --fail-if "size>+10%"
    """
    from deploytool.diff import budgets, compare, sides  # here begins numpy

    asked = [budgets.parse(text) for text in fail_if or ()]
    one, other = sides.read(a), sides.read(b)
    found, judged = compare(one, other), [budgets.judge(budget, one, other) for budget in asked]
    _show(one, other, found, judged)
    result = {"a": one, "b": other, "difference": found, "budgets": judged}
    return Outcome({"result": result}, _verdict(found, judged), _failure(judged))


def _failure(judged: list[BudgetResult]) -> DeployError | None:
    from deploytool.diff.budgets import Outcome, lines, outcome

    worst = outcome(judged)
    if worst is Outcome.HELD:
        return None
    said = "; ".join(lines(each for each in judged if each.outcome is worst))
    if worst is Outcome.OVER:
        return OverBudget(said, "find out why, or allow more")
    return NotVerified(said, "measure it there too, or name what is meant with FIGURE@PLACE")


def _show(a: Side, b: Side, found: Difference, judged: list[BudgetResult]) -> None:
    """What is said, what is measured, and the verdict, which comes last."""
    from deploytool.diff.budgets import lines

    console = cli_console.stdout_console()
    cli_console.say(console, f"A: {a.kind} {a.path}, {a.model}")
    cli_console.say(console, f"B: {b.kind} {b.path}, {b.model}")
    if found.facts:
        rows = [(changed.name, _said(changed.a), _said(changed.b)) for changed in found.facts]
        cli_console.table(console, "What changed", ("", "A", "B"), rows)
    plain = [_row(each) for each in found.shifts if each.quantity != _TIMED]
    timed = [_row(each)[1:] for each in found.shifts if each.quantity == _TIMED]
    if plain:
        cli_console.table(console, "By how much", ("figure", "where", ">A", ">B", "change"), plain)
    if timed:
        cli_console.table(console, "Speed-up over eager (95 % interval)", ("where", ">A", ">B", "change"), timed)
    for line in lines(judged):
        cli_console.say(console, line)
    cli_console.say(console, _verdict(found, judged))


def _row(shift: Shift) -> tuple[str, ...]:
    return (shift.quantity, shift.place, _value(shift, shift.a), _value(shift, shift.b), _moved(shift))


def _said(text: str | None) -> str:
    if text is None:
        return _NONE
    return text[:12] if len(text) == _DIGEST and text.isalnum() else text


def _value(shift: Shift, value: Value | None) -> str:
    """A figure in the unit that people read it in."""
    if value is None:
        return _NONE
    number, interval = value.value, ""
    if value.low is not None and value.high is not None:
        interval = f" ({value.low:.2f}–{value.high:.2f})"
    forms = {
        **dict.fromkeys(("parity", "tolerated", "smallest"), f"{number:.1e}"),
        **dict.fromkeys(("p50", "p90", "p99"), f"{number:.2f} ms"),
        **dict.fromkeys(("noise", "speedup"), f"{number:.2f}×"),
        **dict.fromkeys(("top1", "top5", "accuracy", "half", "caught"), f"{number:.1%}"),
        "size": disk.size(number),
        "build": f"{number:.1f} s",
    }
    return forms.get(shift.quantity, f"{number:.4g}") + interval


def _moved(shift: Shift) -> str:
    """How far, and whether that is for the worse."""
    from deploytool.diff.quantities import QUANTITIES

    quantity = QUANTITIES[shift.quantity]
    if shift.a is None or shift.b is None:
        return "only in B" if shift.a is None else "only in A"
    if not shift.comparable:
        return "other machine"
    if shift.sure is False:
        return "no significant difference"
    more = shift.b.value > shift.a.value
    word = "worse" if more == quantity.more_is_worse else "better"
    if quantity.share:
        return f"{(shift.b.value - shift.a.value) * 100:+.1f} points, {word}"
    if shift.factor is None:
        return word
    if quantity.units.keys() & {"ms", "MB"}:
        return f"{shift.factor - 1:+.1%}, {word}"
    return f"{shift.factor:.3g}×, {word}"


def _verdict(found: Difference, judged: list[BudgetResult]) -> str:
    from deploytool.diff.budgets import Outcome, outcome

    if not judged:
        return f"Verdict: {_same(found)}."
    worst = outcome(judged)
    texts = ", ".join(each.budget for each in judged if each.outcome is worst)
    words = {
        Outcome.HELD: f"within budget ({len(judged)} of {len(judged)})",
        Outcome.OVER: f"FAIL, over budget: {texts}",
        Outcome.UNKNOWN: f"not verified: {texts} cannot be judged",
    }
    return f"Verdict: {words[worst]}; {_same(found)}."


def _same(found: Difference) -> str:
    if found.none:
        return "the same"
    alone = sum(shift.a is None or shift.b is None for shift in found.shifts)
    lone = f", {alone} more are on one side alone" if alone else ""
    return f"{len(found.facts)} facts and {len(found.shifts) - alone} figures differ{lone}"
