"""The progress of a fleet: a row for each device on a terminal, lines elsewhere, and nothing with --quiet."""

from __future__ import annotations

import io
import sys
import time

import pytest
from rich.console import Console

from deploytool.cli import console as cli_console
from deploytool.cli import fleet_progress, live
from deploytool.cli.console import OutputMode
from deploytool.cli.fleet_progress import Tally
from deploytool.fleet.actions import Action
from deploytool.fleet.result import SCHEMA, DeviceResult, Outcome
from tests.cli import hostile
from tests.cli.test_progress import FakeTime

NAMES = ("one", "three")


def result(name: str, outcome: Outcome = Outcome.DONE) -> DeviceResult:
    return DeviceResult(SCHEMA, name, Action.DEPLOY, outcome)


def test_each_device_has_what_is_done_there_and_since_when() -> None:
    clock = FakeTime()
    tally = Tally(NAMES, clock)
    clock.seconds += 5
    tally.doing("one", "proves the bundle")
    clock.seconds += 60
    tally.say("one", "case 3 of 8")
    assert tally.working() == [("one    proves the bundle: case 3 of 8", 60.0), ("three  waits", 65.0)]
    tally.doing("one", "rolls back")
    assert tally.working()[0] == ("one    rolls back", 0.0)
    assert (tally.counts(), tally.clock()) == ("0 of 2 devices", "1:05")


def test_devices_that_have_ended_are_counted_and_may_begin_again() -> None:
    tally = Tally(NAMES, FakeTime())
    tally.end(result("one"))
    tally.end(result("three", Outcome.UNREACHABLE))
    tally.say("one", "a late line")
    assert (tally.counts(), tally.working()) == ("2 of 2 devices, 1 not done", [])
    tally.doing("one", "rolls back")
    assert tally.counts() == "1 of 2 devices, 1 not done"
    tally.end(result("one", Outcome.FAILED))
    assert tally.counts() == "2 of 2 devices, 2 not done"


def rendered(tally: Tally, shown: int, width: int = 70) -> list[str]:
    printed = io.StringIO()
    target = Console(file=printed, width=width, no_color=True)
    target.print(live.Display(tally, target, shown).render())
    return [line.rstrip() for line in printed.getvalue().splitlines()]


def test_the_display_has_a_row_for_each_device_and_fits() -> None:
    tally = Tally([f"device-{number}" for number in range(5)], FakeTime())
    tally.doing("device-0", "installs and proves the bundle")
    tally.say("device-0", "x" * 100)
    rows = rendered(tally, 3)
    assert "0 of 5 devices" in rows[0]
    assert rows[1].startswith("     0:00  device-0  installs and proves the bundle: xxx")
    assert (len(rows), rows[-1], max(map(len, rows))) == (5, "  and 2 more", 70)


def test_foreign_text_cannot_control_the_terminal() -> None:
    tally = Tally(["one"], FakeTime())
    tally.doing("one", hostile.TEXT)
    tally.say("one", hostile.TEXT)
    output = "\n".join(rendered(tally, 3, 500))
    assert hostile.FORGED in output
    assert not [*hostile.find_harm(output)]


def test_lines_are_printed_without_a_terminal_and_results_are_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[DeviceResult] = []
    with fleet_progress.follow(NAMES, ended.append) as observer:
        observer.doing("one", "proves the bundle")
        observer.say("one", "case 3 of 8")
        observer.ended(result("one"))
    assert capsys.readouterr() == ("", "  one    case 3 of 8\none: done\n")
    assert ended == [result("one")]


def test_results_of_devices_that_are_only_asked_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with fleet_progress.follow(NAMES, None) as observer:
        observer.ended(result("one"))
    assert capsys.readouterr() == ("", "")


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    cli_console.set_mode(OutputMode(quiet=True))
    try:
        with fleet_progress.follow(NAMES, id) as observer:
            observer.say("one", "case 3 of 8")
            observer.ended(result("one"))
    finally:
        cli_console.set_mode(OutputMode())
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_results_stay_above_the_rows_that_go(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with fleet_progress.follow(NAMES, id) as observer:
        observer.doing("three", "proves the bundle")
        observer.say("three", "case 3 of 8")
        time.sleep(0.6)  # the rows are drawn four times a second
        observer.ended(result("one"))
    text = screen.getvalue()
    assert "0 of 2 devices" in text
    assert "1 of 2 devices" in text
    assert "three  proves the bundle: case 3 of 8" in text
    assert text.index("three  proves the bundle") < text.rindex("one: done") < text.rindex("three  proves the bundle")
    before = text[: text.index("one: done")]
    assert before.count("\x1b[2K") > before.count("\n")  # the rows were erased before it was printed
