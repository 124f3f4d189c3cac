"""A page is kept by whoever can: the child that began ahead, or else this process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from deploytool import child, programs
from deploytool.page import PAGE, facts, keeping, leaf, stamp
from tests.conftest import modules_of
from tests.page.variants import written

DRAW = programs.command(programs.DRAW)


def test_the_child_that_began_draws_and_this_process_draws_nothing(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_copy / PAGE).unlink(missing_ok=True)
    monkeypatch.setattr(leaf, "write", lambda home: pytest.fail("drawn here"))
    with keeping.ahead(run_copy):
        assert child.awaits(DRAW)
        assert keeping.keep(written(run_copy), run_copy) == run_copy / PAGE
    assert stamp.holds(run_copy)
    assert (run_copy / PAGE).read_text(encoding="utf-8") == leaf.text(facts.read(run_copy))


def test_a_child_that_cannot_draw_is_no_loss(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_copy / PAGE).unlink(missing_ok=True)
    broken = programs.command("raise SystemExit('no letters')")
    monkeypatch.setattr(keeping, "_COMMAND", broken)
    with keeping.ahead(run_copy):
        keeping.keep(written(run_copy), run_copy)
    assert stamp.holds(run_copy)


def test_nothing_begins_where_the_page_is_right_nor_outlives_a_run_that_fails(run_copy: Path) -> None:
    keeping.keep(written(run_copy), run_copy)
    with keeping.ahead(run_copy):
        assert not child.awaits(DRAW)
    (run_copy / PAGE).unlink()
    with suppress(KeyError), keeping.ahead(run_copy):
        raise KeyError
    assert not child.awaits(DRAW)


def test_keeping_imports_no_drawing() -> None:
    assert not {"matplotlib", "jinja2"} & modules_of("import deploytool.page.keeping")
