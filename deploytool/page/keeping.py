"""Keeps the page and the JUnit file of a run; matplotlib and jinja2 are imported only where something is drawn."""

from __future__ import annotations

from pathlib import Path

from deploytool.page import PAGE, junit, stamp
from deploytool.report import Report


def keep(written: Report, home: Path, xml: Path | None = None) -> Path:
    """Makes sure that the run's page is that of what it holds, and writes `xml` if it is named; gives the page."""
    if not stamp.holds(home):
        from deploytool.page import leaf  # here begin matplotlib and jinja2

        leaf.write(home)
    if xml is not None:
        junit.write(xml, written)
    return home / PAGE
