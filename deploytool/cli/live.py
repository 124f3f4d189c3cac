"""A display on a terminal that is redrawn: a row of counts, bar and time, and a row for each thing at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from deploytool.host import terminal

_BAR_WIDTH = 20  # columns
_REFRESH_PER_S = 4
Now = Callable[[], float]


class Tally(Protocol):
    """What is counted; it is read by another thread than the one that counts."""

    total: int
    finished: int

    def counts(self) -> str:
        """`12 of 120 cells, 4 running, 1 failed`."""

    def clock(self) -> str:
        """The elapsed time, and the remaining time if it is known."""

    def working(self) -> list[tuple[str, float]]:
        """What is at work, with the seconds since it began, in the order of the rows."""


def is_possible(console: Console) -> bool:
    """Whether a display can be redrawn there, and is wanted."""
    return console.is_terminal and not console.is_dumb_terminal and not console.quiet


@contextmanager
def show(tally: Tally, console: Console, shown: int) -> Iterator[None]:
    """Shows a tally while the block runs, with at most `shown` things at work; nothing of it is left behind."""
    display = Display(tally, console, shown)
    with Live(get_renderable=display.render, console=console, transient=True, refresh_per_second=_REFRESH_PER_S):
        yield


def duration(seconds: float) -> str:
    """Seconds as M:SS, from an hour on as H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class Display:
    """What the terminal shows: one row of counts, and a row for each of the first `shown` things at work."""

    def __init__(self, tally: Tally, console: Console, shown: int) -> None:
        self._tally, self._console, self._shown, self._spinner = tally, console, shown, Spinner("dots")
        self._clock, self._made = "", float("-inf")

    def render(self) -> Group:
        """The rows at this moment, none wider than the terminal."""
        now = time.monotonic()
        if now - self._made >= 1:  # an estimate may take long
            self._clock, self._made = self._tally.clock(), now
        counts, width = self._tally.counts(), self._console.width
        share = ProgressBar(max(self._tally.total, 1), self._tally.finished, width=_BAR_WIDTH)
        columns: list[RenderableType] = [self._spinner, Text(counts)]
        needed = 4 + len(counts) + len(self._clock)  # spinner and the spaces between the columns
        rows = [] if needed <= width else [Text(f"  {self._clock}", no_wrap=True, overflow="ellipsis")]
        columns += [share] if needed + _BAR_WIDTH < width else []
        columns += [] if rows else [Text(self._clock)]
        head = Table.grid(*(Column(no_wrap=True, overflow="ellipsis") for _ in columns), padding=(0, 1))
        head.add_row(*columns)
        working = self._tally.working()
        rows += [self._row(text, seconds) for text, seconds in working[: self._shown]]
        rows += [Text(f"  and {len(working) - self._shown} more")] if len(working) > self._shown else []
        return Group(head, *rows)

    def _row(self, text: str, seconds: float) -> Text:
        return Text(f"  {duration(seconds):>7}  {terminal.visible(text)}", no_wrap=True, overflow="ellipsis")
