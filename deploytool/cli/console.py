"""Terminal output: tables and lines on stdout, or on stderr if stdout gets a JSON document."""

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
from rich.console import Console, JustifyMethod
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from deploytool.errors import DeployError
from deploytool.host import exception_text, terminal
from deploytool.transfer import auth

_UNBOUNDED = 1000  # width in columns of a pipe or a file
_NO_BREAK = "\0"  # placeholder for a space at which a line must not be broken
_MIN_TEXT_WIDTH = 16  # columns of a cell with text


@dataclass(frozen=True)
class OutputMode:
    """The output mode of a command: only the verdict, everything, or one JSON document on stdout."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False


_MODE: ContextVar[OutputMode] = ContextVar("mode", default=OutputMode())  # noqa: B039  # frozen


def set_mode(mode: OutputMode) -> None:
    """Sets the output mode of this command."""
    _MODE.set(mode)


def mode() -> OutputMode:
    """The output mode of this command."""
    return _MODE.get()


def ignore_invalid_size() -> None:
    """Removes COLUMNS and LINES from the environment if they are not positive numbers, which rich cannot read."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[1-9][0-9]{0,5}", os.environ.get(name, "")):
            os.environ.pop(name, None)


def stderr_console(*, as_json: bool = False) -> Console:
    """The console for text that is not in the JSON document: stdout, or stderr with --json."""
    current = mode()
    return _console(stderr=as_json or current.json, quiet=current.quiet)


def progress_console() -> Console:
    """The console for a progress bar if the lines are not written to a terminal: stderr."""
    return _console(stderr=True, quiet=mode().quiet)


def stdout_console() -> Console:
    """The console for text that the JSON document also contains: stdout, silent with --json."""
    current = mode()
    return _console(stderr=False, quiet=current.quiet or current.json)


def _console(*, stderr: bool, quiet: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False, quiet=quiet)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBOUNDED
    return console


def document(value: object) -> None:
    """Writes one JSON document to stdout."""
    terminal.print_json(value)


def line(text: str) -> None:
    """Writes one line to stdout in every output mode, also with --quiet."""
    terminal.print_stdout(text)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Prints one line; on a terminal it is wrapped between words, so that no path is broken."""
    text = terminal.visible(text)
    lines = [text]
    if console.is_terminal and len(text) > console.width:
        margin = " " * (len(text) - len(text.lstrip()))
        lines = _wrapped(text.strip(), console.width, margin, f"{margin}  ")
    for line in lines:
        unwrapped(console, line, style)


def unwrapped(console: Console, text: str, style: str | None = None) -> None:
    """Prints one line without wrapping, for a command to copy; it is not parsed as markup."""
    console.print(Text(terminal.visible(text)), soft_wrap=True, style=style)


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """The lines of a text wrapped between words; `first` and `others` are the indents of the lines."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def detail(line: str) -> None:
    """Prints a line on stderr if --verbose is given."""
    if mode().verbose:
        unwrapped(_console(stderr=True, quiet=False), line)


def note(line: str) -> None:
    """Prints a line about progress on stderr."""
    unwrapped(progress_console(), line)


def table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table. The name of a right-aligned column begins with >, that of a column with text with ~.

    Text is wrapped on a narrow terminal. If that is not enough, each row is printed as a paragraph: nothing is cut off,
    and no name or number is broken.
    """
    cells = [tuple(terminal.visible(cell) for cell in row) for row in rows]
    if title:
        for line in _wrapped(terminal.visible(title), console.width):
            unwrapped(console, line, "bold")
    if _minimum_width(console, columns, cells) <= console.width:
        console.print(_build_table(columns, cells))
        return
    console.print()
    for row in cells:
        _paragraph(console, columns, row)
    console.print()


def _build_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_header=any(columns))
    for column in columns:
        justify: JustifyMethod = "right" if column.startswith(">") else "left"
        table.add_column(column.lstrip(">~"), justify=justify, no_wrap=not column.startswith("~"), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _minimum_width(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The width in columns that the table needs, with text cells cut to their minimum width."""
    limits = [_MIN_TEXT_WIDTH if column.startswith("~") else None for column in columns]
    short = [tuple(cell[:limit] for cell, limit in zip(row, limits, strict=True)) for row in rows]
    unbounded = console.options.update(width=_UNBOUNDED)
    return Measurement.get(console, unbounded, _build_table(columns, short)).maximum


def _paragraph(console: Console, columns: Sequence[str], row: Sequence[str]) -> None:
    """Prints a row as a paragraph: the first cell, then the others with the names of their columns."""
    unwrapped(console, row[0].strip())
    labels = []
    for column, cell in zip(columns[1:], row[1:], strict=True):
        if cell.strip("– "):
            name = column.lstrip(">~")
            label = f"{name}: {cell}" if name else cell
            breakable = column.startswith("~") or len(label) > console.width - 3  # indent and semicolon
            labels.append(label if breakable else label.replace(" ", _NO_BREAK))
    for line in _wrapped("; ".join(labels), console.width, "  ", "  "):
        unwrapped(console, line.replace(_NO_BREAK, " "))


def failure(error: DeployError) -> None:
    """Prints the problem and the remedy on stderr, and with --verbose the traceback of the cause."""
    console = _console(stderr=True, quiet=False)
    say(console, f"deploytool: {error}", "red")
    unwrapped(console, f"  → {error.remedy}")
    if error.__cause__ is not None and mode().verbose:
        for line in exception_text.trace(error.__cause__):
            unwrapped(console, line)


def usage_error(error: Any) -> None:
    """Prints the usage of a command and typer's message about wrong arguments on stderr."""
    lines = [] if error.ctx is None else error.ctx.get_usage().splitlines()
    if error.ctx is not None and error.ctx.command.get_help_option(error.ctx) is not None:
        lines += [f"Try '{error.ctx.command_path} {error.ctx.help_option_names[0]}' for help.", ""]
    for line in (*lines, f"Error: {usage_problem(error)}"):
        terminal.print_stderr(line)


def usage_problem(error: Any) -> str:
    """Typer's message about wrong arguments in one line, without the name of the exception that it begins with."""
    return without_exception(" ".join(str(error.format_message()).split()))


def without_exception(message: str) -> str:
    """A message of typer without the name of an exception, which it has where a value cannot be converted."""
    return re.sub(r"(?:^|(?<=: ))Value error, ", "", message)


def error_document(error: DeployError | None) -> dict[str, str | int] | None:
    """An error as a JSON document has it, under `error`."""
    if error is None:
        return None
    return {"problem": str(error), "remedy": error.remedy, "exit_code": error.exit_code}


def show_logs() -> None:
    """Prints log records of deploytool with --verbose, and warnings of deploytool and of libraries always."""

    class ConsoleHandler(logging.Handler):
        """Prints log records on stderr."""

        def emit(self, record: logging.LogRecord) -> None:
            """Prints one record."""
            if record.levelno >= logging.WARNING:
                note(record.getMessage())
            else:
                detail(f"{record.name.rpartition('.')[2]:>12}  {record.getMessage()}")

    log = logging.getLogger("deploytool")
    log.setLevel(logging.DEBUG if mode().verbose else logging.WARNING)
    log.propagate = False
    log.handlers = [ConsoleHandler()]
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    note(f"{filename}:{lineno}: {category.__name__}: {exception_text.clean(str(message))}")


def open_page(page: Path) -> bool:
    """Opens a page in a graphical browser; returns False if there is none."""
    displays = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(displays or sys.platform in ("darwin", "win32")) and webbrowser.open(page.resolve().as_uri())


def docker_config() -> Path | None:
    """The file with the credentials of `docker login`."""
    return auth.config_path(os.environ.get("DOCKER_CONFIG"))
