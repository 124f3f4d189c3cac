"""Progress of a sweep: a live display on a terminal, elsewhere plain lines at a bounded rate."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from deploytool.cli import console as cli_console
from deploytool.cli import live, progress
from deploytool.cli.live import Now, duration
from deploytool.results.sweep import CellState
from deploytool.results.sweep_events import (
    CellEnded,
    CellReturned,
    CellStarted,
    Event,
    Follow,
    Kind,
    Remarked,
    SharedEnded,
    SharedStarted,
    SweepStarted,
)

_PERIODS_S = (2.0, 5.0, 10.0, 20.0)  # between the first lines without a terminal
_LONGEST_PERIOD_S = 30.0  # between all later ones
_SILENCE_S = 240.0  # the longest time without a line: some CI services end a job that prints nothing
_LISTED = 5  # cells that are named in one period; the others are counted
_SHOWN = 8  # running cells below the bar
_FAILED = (CellState.FAILED, CellState.REFUSED, CellState.LOST)


class Tally:
    """Counts the cells of a sweep and estimates the remaining time; may be read and updated by several threads.

    A cell that is to be done is expected to take the mean of the finished cells of its kind; without one, that of the
    kind without its last word, and so on, down to the mean of all finished cells.
    """

    def __init__(self, now: Now = time.monotonic) -> None:
        self._now, self._start, self._lock = now, now(), threading.RLock()
        self.total = self.finished = self.workers = self.failed = 0
        self.running: dict[str, tuple[Kind, float]] = {}  # kind and start of each cell
        self._waiting: Counter[Kind] = Counter()
        self._spent: dict[Kind, tuple[int, float]] = {}  # number and seconds of finished cells, by every prefix

    def update(self, event: Event) -> None:
        """Counts an event."""
        with self._lock:
            if isinstance(event, SweepStarted):
                self.total, self.finished = len(event.cells) + event.finished, event.finished
                self.workers = event.workers
                self._waiting.update(event.cells)
            elif isinstance(event, CellStarted):
                self._waiting[event.kind] -= 1
                self.running[event.cell] = (event.kind, self._now())
            elif isinstance(event, CellReturned):
                self.running.pop(event.cell, None)
                self._waiting[event.kind] += 1
            elif isinstance(event, SharedStarted):
                self.running[event.name] = ((), self._now())
            elif isinstance(event, SharedEnded):
                self.running.pop(event.name, None)
            elif isinstance(event, CellEnded):
                self._end(event)

    def _end(self, event: CellEnded) -> None:
        if self.running.pop(event.cell, None) is None:
            self._waiting[event.kind] -= 1  # it ended without having begun, as a cell that is refused at once
        self.finished += 1
        self.failed += event.state in _FAILED
        for length in range(len(event.kind) + 1):
            count, seconds = self._spent.get(event.kind[:length], (0, 0.0))
            self._spent[event.kind[:length]] = (count + 1, seconds + event.seconds)

    def remaining(self) -> float | None:
        """The remaining seconds; None before the first cell has ended."""
        with self._lock:
            if () not in self._spent:
                return None
            waiting = sum(count * self._expected(kind) for kind, count in self._waiting.items() if count > 0)
            now = self._now()
            running = [max(self._expected(kind) - (now - start), 0.0) for kind, start in self.running.values()]
            return max([(waiting + sum(running)) / max(self.workers, 1), *running])

    def _expected(self, kind: Kind) -> float:
        """The expected seconds of a cell, from the finished cells that share the longest beginning of its kind."""
        known = next(self._spent[kind[:length]] for length in range(len(kind), -1, -1) if kind[:length] in self._spent)
        return known[1] / known[0]

    def counts(self) -> str:
        """`12 of 120 cells, 4 running, 1 failed`; `preparing` before the sweep begins."""
        if not self.total:
            return "preparing"
        words = [f"{self.finished} of {self.total} cells"]
        words += [f"{len(self.running)} running"] if self.running else []
        words += [f"{self.failed} failed"] if self.failed else []
        return ", ".join(words)

    def clock(self) -> str:
        """The elapsed time, and the remaining time if it is known."""
        elapsed, remaining = duration(self._now() - self._start), self.remaining()
        done = remaining is None or self.finished == self.total
        return elapsed if done else f"{elapsed}, about {duration(remaining or 0.0)} left"

    def working(self) -> list[tuple[str, float]]:
        """The running cells with the seconds that each has taken, the longest first."""
        with self._lock:
            now = self._now()
            return sorted(((cell, now - start) for cell, (_, start) in self.running.items()), key=lambda each: -each[1])


@contextmanager
def follow(console: Console) -> Iterator[Follow]:
    """Yields a callback for the events of a sweep; it prints nothing with --quiet."""
    target = progress.live_console(console)
    if live.is_possible(target):
        with _live(console, target) as callback:
            yield callback
    elif console.quiet:
        yield Tally().update
    else:
        with _plain(console) as callback:
            yield callback


@contextmanager
def _live(console: Console, target: Console) -> Iterator[Follow]:
    """A display of the counts and the running cells; a line above it for each cell that did not pass."""
    tally = Tally()
    with live.show(tally, target, _SHOWN):

        def callback(event: Event) -> None:
            tally.update(event)
            for line in _lines(event):
                cli_console.say(console, line)

        yield callback


@contextmanager
def _plain(console: Console) -> Iterator[Follow]:
    """Lines without a terminal, a few in each period, however many cells end in it."""
    lines = PlainLines(console)
    ended = threading.Event()
    printer = threading.Thread(target=_print_periodically, args=(lines, ended), daemon=True)
    printer.start()
    try:
        yield lines.update
    finally:
        ended.set()
        printer.join()
        lines.flush()


def _print_periodically(lines: PlainLines, ended: threading.Event) -> None:
    periods = iter(_PERIODS_S)
    while not ended.wait(next(periods, _LONGEST_PERIOD_S)):
        lines.flush()


class PlainLines:
    """Collects events, and prints what is new at each `flush`: at most `_LISTED` cells, and one line of counts."""

    def __init__(self, console: Console, now: Now = time.monotonic) -> None:
        self._console, self._now, self._tally, self._lock = console, now, Tally(now), threading.Lock()
        self._new: list[str] = []
        self._left_out, self._printed, self._printed_at = 0, "", now()

    def update(self, event: Event) -> None:
        """Counts an event, and keeps its lines for the next flush; the first lines are printed at once."""
        self._tally.update(event)
        with self._lock:
            for line in _lines(event):
                if len(self._new) < _LISTED:
                    self._new.append(line)
                else:
                    self._left_out += 1
        if isinstance(event, SweepStarted):
            self.flush()

    def flush(self) -> None:
        """Prints the new lines, and the counts if they have changed or nothing was printed for long."""
        with self._lock:
            new, left_out = self._new, self._left_out
            self._new, self._left_out = [], 0
        for line in new:
            cli_console.say(self._console, line)
        if left_out:
            cli_console.say(self._console, f"  and {left_out} more cell{'s' * (left_out > 1)} that did not pass")
        counts = self._tally.counts()
        is_due = self._now() - self._printed_at >= _SILENCE_S
        if self._tally.total and (counts != self._printed or is_due):
            self._printed, self._printed_at = counts, self._now()
            longest = "".join(f"; {cell} since {duration(seconds)}" for cell, seconds in self._tally.working()[:1])
            cli_console.say(self._console, f"{counts}; {self._tally.clock()}{longest if is_due else ''}")


def _lines(event: Event) -> Iterator[str]:
    """The lines that are printed for an event: none for a cell that begins, passes or is pending."""
    if isinstance(event, SweepStarted):
        if event.finished:
            yield f"{event.finished} cells are finished already, {len(event.cells)} are left"
        if event.dashboard:
            yield f"Dask dashboard: {event.dashboard}"
    elif isinstance(event, Remarked):
        yield f"note: {event.text}"
    elif isinstance(event, CellReturned):
        yield f"  again    {event.cell}: {event.why}"
    elif isinstance(event, CellEnded) and event.state in _FAILED:
        yield f"  {event.state:<7}  {event.cell}: {event.problem}"
