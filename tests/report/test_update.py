"""A page is kept by whoever can: the child that began ahead, or else this process."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest

from deploytool.host import process, workers
from deploytool.report import PAGE, html, run_data, stamp, update
from tests.conftest import modules_of
from tests.report.variants import written

DRAW = workers.command("deploytool.report.page_worker")


def test_the_child_that_began_draws_and_this_process_draws_nothing(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_copy / PAGE).unlink(missing_ok=True)
    monkeypatch.setattr(html, "write", lambda home: pytest.fail("drawn here"))
    with update.ahead(run_copy):
        assert process.is_waiting(DRAW)
        assert update.keep(written(run_copy), run_copy) == run_copy / PAGE
    assert stamp.holds(run_copy)
    assert (run_copy / PAGE).read_text(encoding="utf-8") == html.text(run_data.read(run_copy))


def test_a_child_that_cannot_draw_is_no_loss(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_copy / PAGE).unlink(missing_ok=True)
    broken = (sys.executable, "-c", "raise SystemExit('no fonts')")
    monkeypatch.setattr(update, "_COMMAND", broken)
    with update.ahead(run_copy):
        update.keep(written(run_copy), run_copy)
    assert stamp.holds(run_copy)


def test_nothing_begins_where_the_page_is_right_nor_outlives_a_run_that_fails(run_copy: Path) -> None:
    update.keep(written(run_copy), run_copy)
    with update.ahead(run_copy):
        assert not process.is_waiting(DRAW)
    (run_copy / PAGE).unlink()
    with suppress(KeyError), update.ahead(run_copy):
        raise KeyError
    assert not process.is_waiting(DRAW)


def test_keeping_imports_no_drawing() -> None:
    assert not {"matplotlib", "jinja2"} & modules_of("import deploytool.report.update")
