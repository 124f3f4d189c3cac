"""Keeps sweep.json and the page of a sweep as they are now, also while it is being made."""

from __future__ import annotations

import time
from pathlib import Path

from deploytool.results.sweep import Sweep
from deploytool.sweeps import store

_EVERY_S = 10.0
_SHARE = 50.0  # writing takes at most this part of the time, however many cells there are


class Pages:
    """The files about a sweep in its folder: what is there never shows an earlier sweep as the present one."""

    def __init__(self, out: Path) -> None:
        self._out, self._due = out, time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the files are old enough to be written again."""
        return time.monotonic() >= self._due

    def write(self, sweep: Sweep) -> None:
        """Writes sweep.json, sweep.html and sweep.csv."""
        from deploytool.report import sweep_page  # imports matplotlib and jinja2

        begin = time.monotonic()
        store.write_sweep(self._out, sweep)
        sweep_page.write_pages(sweep, self._out)
        end = time.monotonic()
        self._due = end + max(_EVERY_S, _SHARE * (end - begin))
