"""Progress of a fleet: on a terminal a row for each device at work, elsewhere the lines of the devices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from deploytool.cli import console as cli_console
from deploytool.cli import live
from deploytool.cli.live import Now, duration
from deploytool.fleet.result import DeviceResult, Outcome
from deploytool.fleet.run import Observer

_OTHER_ROWS = 3  # of the terminal: counts, time, and what does not fit
Keep = Callable[[DeviceResult], object]


@dataclass
class _Work:
    """What is done on a device now, when that began, and the last line that it printed."""

    doing: str
    since: float
    line: str = ""


class Tally:
    """Counts the devices that have ended, and notes what the others do; may be read and updated by several threads."""

    def __init__(self, names: Sequence[str], now: Now = time.monotonic) -> None:
        self._now, self._start, self._lock = now, now(), threading.Lock()
        self._width = max(map(len, names), default=0)
        self._working = {name: _Work("waits", self._start) for name in names}
        self.total, self.finished, self.failed = len(names), 0, 0

    def doing(self, name: str, what: str) -> None:
        """Notes what is done on a device from now on; one that had ended is at work again."""
        with self._lock:
            if name not in self._working:
                self.finished -= 1
            self._working[name] = _Work(what, self._now())

    def say(self, name: str, line: str) -> None:
        """Notes a line of a device."""
        with self._lock:
            if name in self._working:
                self._working[name].line = line

    def end(self, result: DeviceResult) -> None:
        """Counts a device that has ended."""
        with self._lock:
            self.finished += self._working.pop(result.device, None) is not None
            self.failed += result.outcome is not Outcome.DONE

    def counts(self) -> str:
        """`3 of 8 devices, 1 not done`."""
        return f"{self.finished} of {self.total} devices" + (f", {self.failed} not done" if self.failed else "")

    def clock(self) -> str:
        """The elapsed time."""
        return duration(self._now() - self._start)

    def working(self) -> list[tuple[str, float]]:
        """What is done on each device with its last line, and the seconds since it began, in the order of devices."""
        with self._lock:
            now = self._now()
            return [
                (f"{name:<{self._width}}  {work.doing}{f': {work.line}' if work.line else ''}", now - work.since)
                for name, work in self._working.items()
            ]


@contextmanager
def follow(names: Sequence[str], keep: Keep | None) -> Iterator[Observer]:
    """Yields an observer that shows how the work goes on; it prints nothing with --quiet.

    If there is a `keep`, it gets each result, which is printed then.
    """
    console, lock = cli_console.progress_console(), threading.Lock()
    width, tally = max(map(len, names), default=0), Tally(names)

    def say(name: str, line: str) -> None:
        with lock:
            cli_console.unwrapped(console, f"  {name:<{width}}  {line}")

    def end(result: DeviceResult) -> None:
        tally.end(result)
        if keep is not None:
            keep(result)
            with lock:
                reason = f": {result.reason}" if result.reason else ""
                cli_console.unwrapped(console, f"{result.device}: {result.outcome}{reason}")

    if not live.is_possible(console):
        yield Observer(say, ended=end)
        return
    with live.show(tally, console, max(console.height - _OTHER_ROWS, 1)):
        yield Observer(tally.say, tally.doing, end)
