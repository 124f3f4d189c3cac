"""Keeps two commands from changing one run at once, where locks work; where they do not, nothing is lost but work."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploytool.host import locks

_POLL_S, _SILENT_S = 0.05, 1.0
_LOG = logging.getLogger(__name__)


class Unwritable(Exception):
    """The folder of a run cannot be made or written."""


@contextmanager
def locked(home: Path) -> Iterator[list[int]]:
    """Keeps other commands from changing the run in `home`, which is made if it is not there, as far as locks work.

    What is put into the list is closed with the lock.
    """
    held = [_locked(home)]
    try:
        yield held
    finally:
        for opened in held:
            os.close(opened)


def _locked(home: Path) -> int:
    begun, said = time.monotonic(), False
    while True:
        try:
            home.mkdir(parents=True, exist_ok=True)
            opened: int | None = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or time.monotonic() - begun > _SILENT_S:
                raise Unwritable(f"cannot write to {home}: {error.strerror}") from error
            opened = None  # it was taken away this very moment
        if opened is not None:
            if locks.acquire(opened) and _same(opened, home):
                return opened
            os.close(opened)  # somebody has it, or it is no longer the folder of that name
        if not said and time.monotonic() - begun > _SILENT_S:
            _LOG.warning("another deploytool works in %s: waiting until it is done", home)
            said = True
        time.sleep(_POLL_S)


def _same(opened: int, home: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), home.stat())
    except OSError:
        return False
