"""Locks files and folders where the system supports it; locks avoid duplicate work, correctness does not need them.

Windows cannot lock folders, and some network disks have no locks: there a lock always succeeds.
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


def acquire(descriptor: int, *, wait: bool = False, shared: bool = False) -> bool:
    """Locks an open file; returns False if another process holds the lock, True also where locks are not supported.

    Several may hold a `shared` lock at once, while nobody holds the other kind.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True  # locks are not supported here
    return True


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on a file or folder; False where locks are not supported."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not acquire(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def folder(path: Path) -> Iterator[None]:
    """Holds the lock on a folder, where folders can be locked."""
    if not hasattr(os, "O_DIRECTORY"):
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        acquire(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)
