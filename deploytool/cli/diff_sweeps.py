"""What `deploytool diff` shows of two sweeps: cells that are new, lost or in another state, and figures by cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from deploytool.cli import console as cli_console
from deploytool.cli import diff_rows

if TYPE_CHECKING:
    from deploytool.diff.compare import Difference, FigureChange

_ROWS = 40  # of a table; --json has all
_NAMES = 12  # cells in a line
_ALL = "--json has all"


def show(console: Console, difference: Difference) -> None:
    """Prints the cells that only one side has, those in another state, and the figures that changed, worst first."""
    for side, names in (
        ("A", [cell.name for cell in difference.states if cell.b is None]),
        ("B", [cell.name for cell in difference.states if cell.a is None]),
    ):
        if names:
            cli_console.say(console, f"Only in {side}, {len(names)} cells: {_listed(names)}")
    changed = [(cell.name, cell.a, cell.b) for cell in difference.states if cell.a is not None and cell.b is not None]
    if changed:
        cli_console.table(console, "Cells in another state", ("cell", "A", "B"), changed[:_ROWS])
        _rest(console, len(changed) - _ROWS, "cells")
    figures = [change for change in difference.figures if change.a and change.b and change.comparable]
    certain = sorted((change for change in figures if change.significant is not False), key=_gain)
    if certain:
        rows = [_row(change) for change in certain[:_ROWS]]
        cli_console.table(console, "Changed figures", ("cell", "figure", ">A", ">B", "change"), rows)
        _rest(console, len(certain) - _ROWS, "figures")
    if unsure := len(figures) - len(certain):
        cli_console.say(console, f"{unsure} speed-ups differ within their 95 % intervals")
    if elsewhere := sum(not change.comparable for change in difference.figures):
        cli_console.say(console, f"{elsewhere} speeds are of other machines, and cannot be compared")


def _row(change: FigureChange) -> tuple[str, ...]:
    quantity, subject, *others = diff_rows.row(change)
    return (subject, quantity, *others)


def _gain(change: FigureChange) -> float:
    """How much better a figure is in B: the logarithm of its factor, negative if it is worse."""
    from deploytool.diff.quantities import QUANTITIES

    assert change.a is not None
    assert change.b is not None
    quantity = QUANTITIES[change.quantity]
    amount = change.b.value - change.a.value
    if not quantity.share and change.a.value > 0 and change.b.value > 0:
        amount = math.log(change.b.value / change.a.value)
    return -amount if quantity.more_is_worse else amount


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES} more ({_ALL})" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _rest(console: Console, count: int, what: str) -> None:
    if count > 0:
        cli_console.say(console, f"and {count} more {what}; {_ALL}")
