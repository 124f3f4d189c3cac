"""The progress of a sweep: counts, the remaining time by kind of cell, and lines at a bounded rate."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence

import pytest
from rich.console import Console

from deploytool.cli import console as cli_console
from deploytool.cli import live, sweep_progress
from deploytool.cli.console import OutputMode
from deploytool.cli.live import duration
from deploytool.cli.sweep_progress import PlainLines, Tally
from deploytool.results.sweep import CellState
from deploytool.results.sweep_events import CellEnded, CellReturned, CellStarted, Kind, SweepStarted
from tests.cli import hostile
from tests.cli.test_progress import FakeTime

SMALL, LARGE = ("small", "fp16"), ("large", "fp16")


def console(*, terminal: bool = False, width: int = 80) -> tuple[Console, io.StringIO]:
    printed = io.StringIO()
    return Console(file=printed, force_terminal=terminal, width=width, highlight=False, markup=False), printed


def started(*kinds: Kind, finished: int = 0, workers: int = 1, dashboard: str = "") -> SweepStarted:
    return SweepStarted(kinds, finished, workers, dashboard)


def ended(cell: str, kind: Kind = SMALL, state: CellState = CellState.PASSED, seconds: float = 1.0) -> CellEnded:
    return CellEnded(cell, kind, state, seconds, "" if state is CellState.PASSED else f"problem of {cell}")


def test_cells_are_counted() -> None:
    tally = Tally(FakeTime())
    tally.update(started(*[SMALL] * 9, finished=3))
    tally.update(CellStarted("a", SMALL))
    assert tally.counts() == "3 of 12 cells, 1 running"
    tally.update(ended("a"))
    for name, state in zip("bcd", (CellState.FAILED, CellState.REFUSED, CellState.LOST), strict=True):
        tally.update(CellStarted(name, SMALL))
        tally.update(ended(name, state=state))
    tally.update(CellStarted("e", SMALL))
    assert tally.counts() == "7 of 12 cells, 1 running, 3 failed"
    tally.update(CellReturned("e", SMALL, "its worker was killed"))
    assert tally.counts() == "7 of 12 cells, 3 failed"


def test_the_remaining_time_is_that_of_finished_cells_of_the_same_kind() -> None:
    time = FakeTime()
    tally = Tally(time)
    tally.update(started(*[SMALL] * 3, *[LARGE] * 2))
    assert tally.remaining() is None
    assert tally.clock() == "0:00"
    tally.update(ended("a", SMALL, seconds=10))
    assert tally.remaining() == 4 * 10  # nothing else is known
    tally.update(ended("b", LARGE, seconds=100))
    assert tally.remaining() == 2 * 10 + 100
    tally.update(CellStarted("c", LARGE))
    time.seconds += 30
    assert tally.remaining() == 2 * 10 + 70
    assert tally.clock() == "0:30, about 1:30 left"


def test_a_kind_without_a_finished_cell_is_estimated_from_the_nearest() -> None:
    tally = Tally(FakeTime())
    tally.update(started(("m", "fp16"), ("m", "fp32"), ("n", "fp16")))
    tally.update(ended("a", ("m", "fp16"), seconds=10))
    tally.update(ended("b", ("n", "fp16"), seconds=90))
    assert tally.remaining() == 10


def test_several_workers_share_what_is_left_but_not_one_cell() -> None:
    tally = Tally(FakeTime())
    tally.update(started(*[SMALL] * 9, workers=4))
    tally.update(ended("a", seconds=10))
    assert tally.remaining() == 80 / 4
    for name in "bcdefgh":
        tally.update(ended(name, seconds=10))
    tally.update(CellStarted("i", SMALL))
    assert tally.remaining() == 10


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_lines_are_bounded_in_each_period() -> None:
    target, printed = console()
    lines = PlainLines(target, FakeTime())
    lines.update(started(*[SMALL] * 1000, finished=5, dashboard="http://127.0.0.1:8787/status"))
    assert printed.getvalue().splitlines() == [
        "5 cells are finished already, 1000 are left",
        "Dask dashboard: http://127.0.0.1:8787/status",
        "5 of 1005 cells; 0:00",
    ]
    for index in range(100):
        lines.update(ended(f"cell{index}", state=CellState.FAILED))
        lines.update(ended(f"good{index}"))
    lines.flush()
    new = printed.getvalue().splitlines()[3:]
    assert new[0] == "  failed   cell0: problem of cell0"
    assert new[-2:] == [
        "  and 95 more cells that did not pass",
        "205 of 1005 cells, 100 failed; 0:00, about 13:20 left",
    ]
    assert len(new) == 7
    lines.flush()
    assert len(printed.getvalue().splitlines()) == 10, "nothing has changed"


def test_a_long_silence_is_broken_with_the_cell_that_takes_longest() -> None:
    target, printed = console()
    time = FakeTime()
    lines = PlainLines(target, time)
    lines.update(started(SMALL, LARGE))
    lines.update(CellStarted("the large one", LARGE))
    lines.flush()
    time.seconds += 200
    lines.flush()
    assert len(printed.getvalue().splitlines()) == 2
    time.seconds += 100
    lines.flush()
    assert printed.getvalue().splitlines()[2:] == ["0 of 2 cells, 1 running; 5:00; the large one since 5:00"]


def test_lines_are_printed_while_cells_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_progress, "_PERIODS_S", ())
    monkeypatch.setattr(sweep_progress, "_LONGEST_PERIOD_S", 0.01)
    target, printed = console()
    seen = threading.Event()
    write = printed.write

    def watched(text: str) -> int:
        if "1 of 2" in text:
            seen.set()
        return write(text)

    monkeypatch.setattr(printed, "write", watched)
    with sweep_progress.follow(target) as follow:
        follow(started(SMALL, SMALL))
        follow(ended("a"))
        assert seen.wait(10)
        follow(ended("b"))
    assert printed.getvalue().splitlines()[-1].startswith("2 of 2 cells; ")


def rendered(width: int, cells: Sequence[str]) -> list[str]:
    """The rows of the live display with these cells running, at a width."""
    target, printed = console(terminal=True, width=width)
    tally = Tally(FakeTime())
    tally.update(started(*[SMALL] * 120, finished=60))
    tally.update(ended("a", seconds=100))
    tally.update(ended("b", seconds=100, state=CellState.FAILED))
    for cell in cells:
        tally.update(CellStarted(cell, SMALL))
    target.no_color = True
    target.print(live.Display(tally, target, 8).render())
    return [line.rstrip() for line in printed.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_display_fits_the_terminal(width: int) -> None:
    rows = rendered(width, [f"a-model-with-a-long-name-{index}-fp16-dynamo-rtx40" for index in range(20)])
    text = "\n".join(rows)
    assert "62 of 180 cells, 20 running, 1 failed" in text
    assert "0:00, about 3:16:40 left" in text
    assert rows[-1] == "  and 12 more"
    assert len(rows) == (10 if width > 40 else 11)
    assert ("━" in text) == (width > 80)


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    cli_console.set_mode(OutputMode(quiet=True))
    try:
        with sweep_progress.follow(cli_console.stderr_console()) as follow:
            follow(started(SMALL, dashboard="http://127.0.0.1:8787/status"))
            follow(ended("a", state=CellState.FAILED))
    finally:
        cli_console.set_mode(OutputMode())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", [False, True])
def test_foreign_text_cannot_control_the_terminal(terminal: bool) -> None:
    target, printed = console()
    lines = PlainLines(target, FakeTime())
    lines.update(started(SMALL, SMALL, dashboard=hostile.TEXT))
    lines.update(CellReturned(hostile.TEXT, SMALL, hostile.TEXT))
    lines.update(CellEnded(hostile.TEXT, SMALL, CellState.FAILED, 1.0, hostile.TEXT))
    lines.flush()
    output = "\n".join(rendered(500, [hostile.TEXT])) if terminal else printed.getvalue()
    assert hostile.FORGED in output
    assert not [*hostile.find_harm(output.replace("\x1b[?25l", ""))]
