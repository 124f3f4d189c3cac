"""What people see: tables and lines on stdout, or on stderr where stdout belongs to a JSON document."""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
import warnings
import webbrowser
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from deploytool.errors import DeployError
from deploytool.host import exception_text, terminal
from deploytool.transfer import auth as known

_UNBOUNDED = 1000  # columns of what is no terminal: a pipe or a file
_HARD = "\0"  # stands for a space at which no line may be broken
_PROSE = 16  # columns that a cell of words needs at the least


@dataclass(frozen=True)
class OutputMode:
    """How a command speaks: only the verdict, everything, or one JSON document on stdout."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False


_MANNER: ContextVar[OutputMode] = ContextVar("manner", default=OutputMode())  # noqa: B039  # frozen


def set_mode(manner: OutputMode) -> None:
    """Speaks in this manner from now on."""
    _MANNER.set(manner)


def manner() -> OutputMode:
    """How this command speaks."""
    return _MANNER.get()


def settle() -> None:
    """Forgets a size of the terminal that makes no sense, as a program without one may leave it."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[1-9][0-9]{0,5}", os.environ.get(name, "")):
            os.environ.pop(name, None)


def stderr_console(*, as_json: bool = False) -> Console:
    """Where text for people goes while a command works."""
    spoken = manner()
    return _console(stderr=as_json or spoken.json, quiet=spoken.quiet)


def progress_console() -> Console:
    """Where a progress bar goes whose lines go elsewhere."""
    return _console(stderr=True, quiet=manner().quiet)


def stdout_console() -> Console:
    """Where an answer for people goes that a JSON document gives in full."""
    spoken = manner()
    return _console(stderr=False, quiet=spoken.quiet or spoken.json)


def _console(*, stderr: bool, quiet: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False, quiet=quiet)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBOUNDED
    return console


def document(value: object) -> None:
    """Puts one JSON document on stdout."""
    terminal.print_json(value)


def line(text: str) -> None:
    """One line on stdout in any manner: --quiet leaves it."""
    terminal.print_stdout(text)


def say(console: Console, text: str, style: str | None = None) -> None:
    """One line; on a terminal it is broken between words, and no path is ever broken in two."""
    text = terminal.visible(text)
    lines = [text]
    if console.is_terminal and len(text) > console.width:
        margin = " " * (len(text) - len(text.lstrip()))
        lines = _wrapped(text.strip(), console.width, margin, f"{margin}  ")
    for each in lines:
        unwrapped(console, each, style)


def unwrapped(console: Console, text: str, style: str | None = None) -> None:
    """One line that is not broken, for a command that is to be copied; brackets and colons in it mean nothing."""
    console.print(Text(terminal.visible(text)), soft_wrap=True, style=style)


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def detail(line: str) -> None:
    """A line that only --verbose shows, on stderr."""
    if manner().verbose:
        unwrapped(_console(stderr=True, quiet=False), line)


def note(line: str) -> None:
    """A line on how far a command is, on stderr."""
    unwrapped(progress_console(), line)


def table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; a column whose name begins with > is aligned to the right, one that begins with ~ holds words.

    Words are broken where the terminal is narrow. Where not even that helps, each row becomes a paragraph: nothing is
    cut off, and no name or figure is broken.
    """
    cells = [tuple(terminal.visible(cell) for cell in row) for row in rows]
    if title:
        for line in _wrapped(terminal.visible(title), console.width):
            unwrapped(console, line, "bold")
    if _narrowest(console, columns, cells) <= console.width:
        console.print(_drawn(columns, cells, console.width))
        return
    console.print()
    for row in cells:
        _paragraph(console, columns, row)
    console.print()


def _drawn(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_header=any(columns))
    for column in columns:
        words = column.startswith("~")
        right = column.startswith(">")
        drawn.add_column(
            column.lstrip(">~"),
            justify="right" if right else "left",
            no_wrap=not words,
            overflow="fold",
            min_width=None,
        )
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _narrowest(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The columns of a terminal on which the table still stands, words aside."""
    short = [
        tuple(cell[:_PROSE] if column.startswith("~") else cell for column, cell in zip(columns, row, strict=True))
        for row in rows
    ]
    unbounded = console.options.update(width=_UNBOUNDED)
    return Measurement.get(console, unbounded, _drawn(columns, short, _UNBOUNDED)).maximum


def _paragraph(console: Console, columns: Sequence[str], row: Sequence[str]) -> None:
    """The first cell, and under it the others by the names of their columns."""
    unwrapped(console, row[0].strip())
    named = []
    for column, cell in zip(columns[1:], row[1:], strict=True):
        if cell.strip("– "):
            name = column.lstrip(">~")
            label = f"{name}: {cell}" if name else cell
            broken = column.startswith("~") or len(label) > console.width - 3  # margin and semicolon
            named.append(label if broken else label.replace(" ", _HARD))
    for line in _wrapped("; ".join(named), console.width, "  ", "  "):
        unwrapped(console, line.replace(_HARD, " "))


def failure(error: DeployError) -> None:
    """The problem and the remedy, one line each, on stderr."""
    console = _console(stderr=True, quiet=False)
    say(console, f"deploytool: {error}", "red")
    unwrapped(console, f"  → {error.remedy}")
    if error.__cause__ is not None and manner().verbose:
        for line in exception_text.trace(error.__cause__):
            unwrapped(console, line)


def misused(error: Any) -> None:
    """How a command is used, and what was wrong with that, on stderr."""
    lines = [] if error.ctx is None else error.ctx.get_usage().splitlines()
    if error.ctx is not None and error.ctx.command.get_help_option(error.ctx) is not None:
        lines += [f"Try '{error.ctx.command_path} {error.ctx.help_option_names[0]}' for help.", ""]
    for line in (*lines, f"Error: {error.format_message()}"):
        terminal.print_stderr(line)


def with_lines(error: DeployError | None) -> dict[str, str | int] | None:
    """A failure as it stands in a JSON document."""
    if error is None:
        return None
    return {"problem": str(error), "remedy": error.remedy, "exit_code": error.exit_code}


def listen() -> None:
    """Has what the floors below log shown as details, and warnings of theirs and of libraries as notes."""

    class Shown(logging.Handler):
        """Passes what is logged on to the terminal."""

        def emit(self, record: logging.LogRecord) -> None:
            """Shows one record."""
            if record.levelno >= logging.WARNING:
                note(record.getMessage())
            else:
                detail(f"{record.name.rpartition('.')[2]:>12}  {record.getMessage()}")

    log = logging.getLogger("deploytool")
    log.setLevel(logging.DEBUG if manner().verbose else logging.WARNING)
    log.propagate = False
    log.handlers = [Shown()]
    warnings.showwarning = _warned


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    note(f"{filename}:{lineno}: {category.__name__}: {exception_text.clean(str(message))}")


def shows(page: Path) -> bool:
    """Opens a page in a browser with windows; False where there is none."""
    displays = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(displays or sys.platform in ("darwin", "win32")) and webbrowser.open(page.resolve().as_uri())


def processors() -> int:
    """How many threads can run at once for us."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def logins() -> Path | None:
    """Where `docker login` leaves who we are."""
    return known.config_path(os.environ.get("DOCKER_CONFIG"))
