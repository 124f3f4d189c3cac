"""How far a command is: the step's name, and the time left, as far as an earlier run or the step itself knows."""

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
    """Says how long a sequence of steps may still take.

    `expected` are the seconds that each step took when it was last done; where none are known for a step, its own
    progress tells, and where that tells nothing either, only what has gone by is said.
    """

    def __init__(
        self, steps: Sequence[str], expected: Mapping[str, float], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps, self._expected, self._now = list(steps), expected, now
        self._place, self._begun, self._stepped = 0, now(), now()
        self._share = 0.0

    def went(self, done: int, total: int) -> None:
        """So much of the step is done."""
        self._share = done / total if total else 0.0

    def step(self) -> str:
        """The step is done; the name of the next."""
        self._place, self._stepped, self._share = self._place + 1, self._now(), 0.0
        return self.name

    @property
    def name(self) -> str:
        """The step that is being done."""
        return self._steps[self._place] if self._place < len(self._steps) else "done"

    def left(self) -> float | None:
        """The seconds that are left, None if nobody knows."""
        spent, later = self._now() - self._stepped, self._steps[self._place + 1 :]
        if any(step not in self._expected for step in later):
            return None
        if self._share:
            here = spent / self._share - spent
        elif self.name in self._expected:
            here = self._expected[self.name] - spent
        else:
            return None
        return None if here < 0 else here + sum(self._expected[step] for step in later)

    def __str__(self) -> str:
        left, gone = self.left(), self._now() - self._begun
        return f"{_minutes(gone)}" if left is None else f"{_minutes(gone)}, about {_minutes(left)} left"


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def bar(console: Console) -> Progress:
    """A bar that is silent where there is no terminal; lines on the same terminal must share its console."""
    shown = console if console.is_terminal else cli_console.progress_console()
    wide = (BarColumn(20),) if shown.width >= 72 else ()
    texts = (TextColumn(form, markup=False) for form in ("{task.description}", "{task.fields[clock]}"))
    columns = (SpinnerColumn(), next(texts), *wide, next(texts))
    return Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal or shown.quiet)


def reused_line(home: Path, steps: Sequence[str]) -> dict[str, float]:
    """The seconds that each step took in the run that is in this folder."""
    found = {step: receipt.read(home / step) for step in steps}
    return {step: sealed.seconds for step, sealed in found.items() if sealed}


def follow(
    console: Console, recipe: Sequence[Stage], home: Path, start: Callable[[Watch], Iterable[Artifact]]
) -> tuple[Artifact, ...]:
    """Goes along with a run: a line for each artifact, and a progress bar where there is a terminal."""
    made: list[Artifact] = []
    clock = Clock(recipe, reused_line(home, recipe))
    with bar(console) as progress:
        task = progress.add_task(clock.name, total=None, clock=clock)

        def watch(done: int, total: int) -> None:
            clock.went(done, total)
            progress.update(task, completed=done, total=total)

        for artifact in start(watch):
            made.append(artifact)
            how = f"{artifact.seconds:.1f} s" if artifact.fresh else "kept"
            what = f"left out: {artifact.reason}" if artifact.left_out else artifact.path.relative_to(home)
            cli_console.say(console, f"{artifact.made_by:>12}  {how:>6}  {what}")
            why = "made" if artifact.fresh else "a receipt proves it"
            cli_console.detail(f"{'':>12}  {why}: key {artifact.key[:12]}, SHA-256 {artifact.digest[:12]}")
            for line in _log(artifact):
                cli_console.detail(f"{'':>12}  {line}")
            progress.reset(task, description=clock.step(), total=None, clock=clock)
    return tuple(made)


def _log(artifact: Artifact) -> Sequence[str]:
    """What a tool said while it made an artifact."""
    log = artifact.notes.get("log") if artifact.fresh else None
    return [str(line) for line in log] if isinstance(log, (list, tuple)) else []


def along(console: Console, step: str, start: Callable[[Watch], T]) -> T:
    """What one long step gives; goes along with it."""
    clock = Clock([step], {})
    with bar(console) as progress:
        task = progress.add_task(step, total=None, clock=clock)

        def watch(done: int, total: int) -> None:
            clock.went(done, total)
            progress.update(task, completed=done, total=total)

        return start(watch)


@contextmanager
def epochs(console: Console, count: int) -> Iterator[tuple[Watch, Callable[[int, float], None]]]:
    """Shows the progress of a training: a watcher for each epoch, and a callback with its seconds at its end."""
    names = [f"epoch {number}" for number in range(1, count + 1)]
    seconds: dict[str, float] = {}
    clock = Clock(names, seconds)
    with bar(console) as progress:
        task = progress.add_task(clock.name, total=None, clock=clock)

        def watch(done: int, total: int) -> None:
            clock.went(done, total)
            progress.update(task, completed=done, total=total)

        def over(_: int, took: float) -> None:
            seconds.update(dict.fromkeys(names, took))
            progress.reset(task, description=clock.step(), total=None, clock=clock)

        yield watch, over
