"""What people see: tables and lines on stdout, or on stderr where stdout belongs to a JSON document."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploytool import plain
from deploytool.artifact import Artifact
from deploytool.errors import DeployError

Watch = Callable[[int, int], None]

_COLUMNS = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())


def people(*, as_json: bool) -> Console:
    """Where text for people goes."""
    return Console(stderr=as_json, highlight=False)


def document(value: object) -> None:
    """Puts one JSON document on stdout."""
    typer.echo(plain.text(value), nl=False)


def say(console: Console, line: str) -> None:
    """One line as it is: file names keep their brackets, and nothing breaks a path in two."""
    console.print(line, markup=False, soft_wrap=True)


def table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; a column whose name begins with > is aligned to the right."""
    drawn = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        drawn.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn, markup=False)


def failure(error: DeployError) -> None:
    """The problem and the remedy, one line each, on stderr."""
    typer.secho(f"deploytool: {error}", fg="red", err=True)
    typer.echo(f"  → {error.remedy}", err=True)


def told(error: DeployError | None) -> dict[str, str | int] | None:
    """A failure as it stands in a JSON document."""
    if error is None:
        return None
    return {"problem": str(error), "remedy": error.remedy, "exit_code": error.exit_code}


def progress_bar(console: Console) -> Progress:
    """A bar that is silent where there is no terminal; lines on the same terminal must share its console."""
    shown = console if console.is_terminal else Console(stderr=True)
    return Progress(*_COLUMNS, console=shown, transient=True, disable=not shown.is_terminal)


def follow(
    console: Console, recipe: Sequence[str], start: Callable[[Watch], Iterable[Artifact]]
) -> tuple[Artifact, ...]:
    """Goes along with a run: a line for each artifact, and a progress bar where there is a terminal."""
    made: list[Artifact] = []
    apart = redirect_stdout(sys.stderr) if console.stderr else nullcontext()  # a model that prints spoils no document
    with apart, progress_bar(console) as progress:
        bar = progress.add_task(recipe[0], total=None)
        for artifact in start(lambda done, total: progress.update(bar, completed=done, total=total)):
            made.append(artifact)
            how = f"{artifact.seconds:.1f} s" if artifact.fresh else "kept"
            say(console, f"{artifact.made_by:>12}  {how:>6}  {artifact.path}")
            upcoming = recipe[len(made)] if len(made) < len(recipe) else "done"
            progress.reset(bar, description=upcoming, total=None)
    return tuple(made)


def processors() -> int:
    """How many threads can run at once for us."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def logins() -> Path:
    """Where `docker login` leaves who we are."""
    return Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser() / "config.json"
