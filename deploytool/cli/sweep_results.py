"""Prints the cells of a sweep, and writes its page, its table and its JUnit file."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.host import disk
from deploytool.results import sweep as sweeps
from deploytool.results import sweep_figures
from deploytool.results.sweep import CellResult, CellState, Sweep

_ROWS = 40  # of the table; the page and --json have all
_NONE = "–"


def write(sweep: Sweep, folder: Path, xml: Path | None) -> Path:
    """Writes sweep.html, sweep.csv and a JUnit file if one is wanted; returns the path of the page."""
    from deploytool.report import junit, sweep_page  # imports matplotlib and jinja2

    written = sweep_page.write_pages(sweep, folder)
    if xml is not None:
        junit.write_sweep(xml, sweep)
    return written


def show(folder: Path) -> Outcome:
    """Prints the cells of a sweep, those that did not pass first, and its verdict; raises BadInput if it is unreadable.

    The exit code is 0 whatever the cells are: it only looks.
    """
    sweep, console = sweeps.read(folder), cli_console.stdout_console()
    table(console, sweep)
    line = verdict(sweep)
    cli_console.say(console, f"Verdict: {line}")
    unmade = sweep.count(CellState.PENDING) + sweep.count(CellState.LOST)
    following = "repeat the same sweep, which goes on" if unmade else f"deploytool report {folder}"
    return Outcome({"folder": str(folder), "sweep": sweep}, f"{folder}: {line}", next=following)


def table(console: Console, sweep: Sweep) -> None:
    """Prints one row for each cell, those that did not pass first."""
    ordered = sorted(sweep.cells, key=lambda result: result.state is CellState.PASSED)
    columns = ("cell", "state", ">speed-up", ">size", ">× tolerance", "~reason")
    cli_console.table(console, "Cells", columns, [_row(result) for result in ordered[:_ROWS]])
    if len(ordered) > _ROWS:
        cli_console.say(console, f"and {len(ordered) - _ROWS} more cells; --json has all")


def verdict(sweep: Sweep) -> str:
    """How many cells passed, and how many are in each other state."""
    others = [
        f"{sweep.count(state)} {state}" for state in CellState if state is not CellState.PASSED and sweep.count(state)
    ]
    waiting = sum(bool(result.pending) for result in sweep.cells)
    others += [f"{waiting} with work left for a device"] if waiting else []
    return ", ".join([f"{sweep.count(CellState.PASSED)} of {len(sweep.cells)} cells passed", *others])


def _row(result: CellResult) -> tuple[str, ...]:
    speed, size, worst = sweep_figures.fastest(result), sweep_figures.size(result), sweep_figures.worst(result)
    return (
        result.cell.name,
        str(result.state),
        f"{speed.ratio:.2f}×" if speed else _NONE,
        _NONE if size is None else disk.size(size),
        f"{worst.tolerances:.2g}" if worst else _NONE,
        result.problem or "; ".join(f"{each.status}: {each.what}" for each in result.pending),
    )
