"""Keeps the page and the JUnit file of a run; matplotlib and jinja2 are imported only where something is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploytool.errors import StageFailed
from deploytool.host import process, workers
from deploytool.report import PAGE, junit, stamp
from deploytool.results.report import Report

_COMMAND, _SECONDS = workers.command("deploytool.report.page_worker"), 60.0


def keep(written: Report, home: Path, xml: Path | None = None, *, named: Path | None = None) -> Path:
    """Makes sure that the run's page is that of what it holds, and writes `xml` if it is given; gives the page.

    `named` is what the run's folder will be called, if it is not called so yet.
    """
    if not stamp.holds(home, named):
        _draw(home, named or home)
    if xml is not None:
        junit.write(xml, written)
    return home / PAGE


@contextmanager
def ahead(home: Path) -> Iterator[None]:
    """Has a child begin what a page takes long for, unless the page that is there may well be right in the end."""
    if not stamp.holds(home):
        process.start_ahead(_COMMAND, workers.GIBIBYTES, workers.LARGEST_FILE)
    try:
        yield
    finally:
        process.stop_ahead(_COMMAND)


def _draw(home: Path, named: Path) -> None:
    """By the child that has begun, if there is one and it can; else here."""
    if process.is_waiting(_COMMAND):
        with suppress(StageFailed):
            task = [str(home), str(named)]
            process.run_limited(
                _COMMAND,
                what="the page",
                seconds=_SECONDS,
                gibibytes=workers.GIBIBYTES,
                task=task,
                makes=named / PAGE,
            )
            return
    from deploytool.report import html  # here begin matplotlib and jinja2

    html.write(home, named)
