"""Updates the page and the JUnit file of a run; imports what draws and writes them only when needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploytool.errors import StageFailed
from deploytool.host import process, workers
from deploytool.report import stamp
from deploytool.results.artifact import PAGE
from deploytool.results.report import Report

_COMMAND, _SECONDS = workers.command("deploytool.report.page_worker"), 60.0


def refresh(report: Report, home: Path, xml: Path | None = None, *, final: Path | None = None) -> Path:
    """Draws the page of a run unless it is current, writes JUnit XML to `xml` if given; returns the page's path.

    `final` is the path that the folder will be moved to, if it is not there yet.
    """
    if not stamp.is_current(home, final):
        _draw(home, final or home)
    if xml is not None:
        from deploytool.report import junit  # imports all that a page is made from

        junit.write(xml, report)
    return home / PAGE


@contextmanager
def prestarted(home: Path) -> Iterator[None]:
    """Starts a child process that imports the plotting libraries while the run works, unless the page is current."""
    if not stamp.is_current(home):
        process.start_ahead(_COMMAND, workers.MEMORY_GIB, workers.MAX_FILE_BYTES)
    try:
        yield
    finally:
        process.stop_ahead(_COMMAND)


def _draw(home: Path, final: Path) -> None:
    """Draws the page in the prestarted child process; in this process if there is none or it fails."""
    if process.is_waiting(_COMMAND):
        with suppress(StageFailed):
            task = [str(home), str(final)]
            process.run_limited(
                _COMMAND,
                what="the page",
                seconds=_SECONDS,
                gibibytes=workers.MEMORY_GIB,
                task=task,
                output=final / PAGE,
            )
            return
    from deploytool.report import html  # imports matplotlib and jinja2

    html.write(home, final)
