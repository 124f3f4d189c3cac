"""Locks on files and folders, as far as the system has them: they save work, and nothing that is right depends on them.

Windows locks files and no folders, some network disks lock nothing: there a lock is always had.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None  # type: ignore[assignment]


def acquire(opened: int, *, wait: bool = False) -> bool:
    """Whether we have the lock on what is open now, or locks do not work there at all."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True  # there are no locks here, and it goes without
    return True


def is_held(path: Path) -> bool:
    """Whether somebody has the lock on a file or folder; where there are no locks, nobody."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not acquire(opened)
    finally:
        os.close(opened)


@contextmanager
def folder(path: Path) -> Iterator[None]:
    """One at a time in a folder, where folders can be locked."""
    if not hasattr(os, "O_DIRECTORY"):
        yield
        return
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        acquire(opened, wait=True)
        yield
    finally:
        os.close(opened)
