"""Locks the folder of a run, so that two commands do not change it at once; without locks only work is lost."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploytool.host import locks

_POLL_S, _WARN_AFTER_S = 0.05, 1.0
_LOG = logging.getLogger(__name__)


class Unwritable(Exception):
    """The folder of a run cannot be created or written."""


@contextmanager
def locked(home: Path) -> Iterator[list[int]]:
    """Holds the lock of the run in `home`, which is created if it does not exist, where locks work.

    Yields the descriptors that are closed with the lock; the body may add more.
    """
    descriptors = [_locked_descriptor(home)]
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _locked_descriptor(home: Path) -> int:
    """A descriptor of the folder with the lock taken, as soon as no other command has it."""
    start, warned = time.monotonic(), False
    while True:
        try:
            home.mkdir(parents=True, exist_ok=True)
            descriptor: int | None = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or time.monotonic() - start > _WARN_AFTER_S:
                raise Unwritable(f"cannot write to {home}: {error.strerror}") from error
            descriptor = None  # another command has just replaced the folder
        if descriptor is not None:
            if locks.acquire(descriptor) and _is_folder(descriptor, home):
                return descriptor
            os.close(descriptor)  # another command holds the lock, or has replaced the folder
        if not warned and time.monotonic() - start > _WARN_AFTER_S:
            _LOG.warning("another deploytool works in %s: waiting until it is done", home)
            warned = True
        time.sleep(_POLL_S)


def _is_folder(descriptor: int, home: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), home.stat())
    except OSError:
        return False
