"""The page is drawn by the prestarted child process, or else by this process."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest

from deploytool.host import process, workers
from deploytool.report import html, run_data, stamp, update
from deploytool.results.artifact import PAGE
from tests.conftest import modules_of
from tests.report.variants import written

DRAW = workers.command("deploytool.report.page_worker")


@pytest.fixture(autouse=True)
def pages_are_drawn_here() -> None:
    """Takes the place of the fixture that leaves out the child process."""


def test_the_prestarted_child_draws_the_page(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_copy / PAGE).unlink(missing_ok=True)
    monkeypatch.setattr(html, "write", lambda home: pytest.fail("drawn in this process"))
    with update.prestarted(run_copy):
        assert process.is_waiting(DRAW)
        assert update.refresh(written(run_copy), run_copy) == run_copy / PAGE
    assert stamp.is_current(run_copy)
    assert (run_copy / PAGE).read_text(encoding="utf-8") == html.render(run_data.read(run_copy))


def test_this_process_draws_if_the_child_fails(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_copy / PAGE).unlink(missing_ok=True)
    broken = (sys.executable, "-c", "raise SystemExit('no fonts')")
    monkeypatch.setattr(update, "_COMMAND", broken)
    with update.prestarted(run_copy):
        update.refresh(written(run_copy), run_copy)
    assert stamp.is_current(run_copy)


def test_no_child_starts_for_a_current_page_and_none_outlives_a_failed_run(run_copy: Path) -> None:
    update.refresh(written(run_copy), run_copy)
    with update.prestarted(run_copy):
        assert not process.is_waiting(DRAW)
    (run_copy / PAGE).unlink()
    with suppress(KeyError), update.prestarted(run_copy):
        raise KeyError
    assert not process.is_waiting(DRAW)


def test_the_module_imports_no_plotting_library() -> None:
    assert not {"matplotlib", "jinja2"} & modules_of("import deploytool.report.update")
