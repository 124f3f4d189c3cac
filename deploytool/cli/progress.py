"""Progress of a command: the current step, and the remaining time if an earlier run or the step itself tells it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from deploytool.cli import console as cli_console
from deploytool.results import receipt
from deploytool.results.artifact import Artifact
from deploytool.spec import Stage

Watch = Callable[[int, int], None]
T = TypeVar("T")


class Clock:
    """Estimates the remaining time of a sequence of steps.

    `expected`: the seconds that each step took in an earlier run. For the current step, its own progress takes
    precedence. If neither is known, `str()` is the elapsed time alone.
    """

    def __init__(
        self, steps: Sequence[str], expected: Mapping[str, float], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps, self._expected, self._now = list(steps), expected, now
        self._index, self._start, self._step_start = 0, now(), now()
        self._share = 0.0

    def update(self, done: int, total: int) -> None:
        """Sets the progress of the current step: `done` of `total` units."""
        self._share = done / total if total else 0.0

    def next_step(self) -> str:
        """Ends the current step, and returns the name of the next."""
        self._index, self._step_start, self._share = self._index + 1, self._now(), 0.0
        return self.name

    @property
    def name(self) -> str:
        """The name of the current step, or `done`."""
        return self._steps[self._index] if self._index < len(self._steps) else "done"

    def remaining(self) -> float | None:
        """The remaining seconds; None if unknown."""
        spent, later = self._now() - self._step_start, self._steps[self._index + 1 :]
        if any(step not in self._expected for step in later):
            return None
        if self._share:
            current = spent / self._share - spent
        elif self.name in self._expected:
            current = self._expected[self.name] - spent
        else:
            return None
        return None if current < 0 else current + sum(self._expected[step] for step in later)

    def __str__(self) -> str:
        remaining, elapsed = self.remaining(), self._now() - self._start
        return f"{_minutes(elapsed)}" if remaining is None else f"{_minutes(elapsed)}, about {_minutes(remaining)} left"


def _minutes(seconds: float) -> str:
    """Seconds as M:SS."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def live_console(console: Console) -> Console:
    """The console for a display that is redrawn: `console` if it is a terminal, else stderr."""
    return console if console.is_terminal else cli_console.progress_console()


def bar(console: Console) -> Progress:
    """A progress bar, disabled without a terminal; lines on the same terminal must be printed to its console."""
    target = live_console(console)
    bar_column = (BarColumn(20),) if target.width >= 72 else ()
    description, clock = (
        TextColumn(template, markup=False) for template in ("{task.description}", "{task.fields[clock]}")
    )
    columns = (SpinnerColumn(), description, *bar_column, clock)
    return Progress(*columns, console=target, transient=True, disable=not target.is_terminal or target.quiet)


def expected_seconds(home: Path, steps: Sequence[str]) -> dict[str, float]:
    """The seconds that each step took in the earlier run in this folder, from its receipts."""
    receipts = {step: receipt.read(home / step) for step in steps}
    return {step: entry.seconds for step, entry in receipts.items() if entry}


def follow(
    console: Console, recipe: Sequence[Stage], home: Path, start: Callable[[Watch], Iterable[Artifact]]
) -> tuple[Artifact, ...]:
    """Runs a recipe and returns its artifacts; prints a line for each, and shows a progress bar on a terminal."""
    artifacts: list[Artifact] = []
    clock = Clock(recipe, expected_seconds(home, recipe))
    with bar(console) as progress:
        task = progress.add_task(clock.name, total=None, clock=clock)

        def watch(done: int, total: int) -> None:
            clock.update(done, total)
            progress.update(task, completed=done, total=total)

        for artifact in start(watch):
            artifacts.append(artifact)
            _show(console, artifact, home)
            progress.reset(task, description=clock.next_step(), total=None, clock=clock)
    return tuple(artifacts)


def _show(console: Console, artifact: Artifact, home: Path) -> None:
    """Prints the line of an artifact, and with --verbose its key, its digest and the output of its tool."""
    duration = f"{artifact.seconds:.1f} s" if artifact.fresh else "kept"
    result = f"left out: {artifact.reason}" if artifact.left_out else artifact.path.relative_to(home)
    cli_console.say(console, f"{artifact.made_by:>12}  {duration:>6}  {result}")
    reason = "made" if artifact.fresh else "reused, its receipt matches"
    cli_console.detail(f"{'':>12}  {reason}: key {artifact.key[:12]}, SHA-256 {artifact.digest[:12]}")
    for line in _log(artifact):
        cli_console.detail(f"{'':>12}  {line}")


def _log(artifact: Artifact) -> Sequence[str]:
    """The output of the tool that made an artifact; empty if the artifact was reused."""
    log = artifact.notes.get("log") if artifact.fresh else None
    return [str(line) for line in log] if isinstance(log, (list, tuple)) else []


def run_step(console: Console, step: str, start: Callable[[Watch], T]) -> T:
    """Runs one long step with a progress bar, and returns its result."""
    clock = Clock([step], {})
    with bar(console) as progress:
        task = progress.add_task(step, total=None, clock=clock)

        def watch(done: int, total: int) -> None:
            clock.update(done, total)
            progress.update(task, completed=done, total=total)

        return start(watch)


@contextmanager
def epochs(console: Console, count: int) -> Iterator[tuple[Watch, Callable[[int, float], None]]]:
    """Shows the progress of a training; yields a callback for batches and one for the end of an epoch."""
    names = [f"epoch {number}" for number in range(1, count + 1)]
    seconds: dict[str, float] = {}
    clock = Clock(names, seconds)
    with bar(console) as progress:
        task = progress.add_task(clock.name, total=None, clock=clock)

        def watch(done: int, total: int) -> None:
            clock.update(done, total)
            progress.update(task, completed=done, total=total)

        def end_epoch(_: int, duration: float) -> None:
            seconds.update(dict.fromkeys(names, duration))
            progress.reset(task, description=clock.next_step(), total=None, clock=clock)

        yield watch, end_epoch
