"""Remembers which starts of a bundle never came to their end, whether they failed or were killed."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def recorded(folder: Path) -> Iterator[Callable[[], None]]:
    """Records a start, which has failed unless the callable it gives is called before the end.

    A start that succeeds wipes out the failed ones before it: only failures in a row count.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f"{os.getpid()}-{uuid.uuid4().hex}"
    with token.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # a process that dies lets go of it

        def succeeded() -> None:
            for failure in _failed(folder):
                failure.unlink(missing_ok=True)
            token.unlink(missing_ok=True)

        yield succeeded


def failed(folder: Path) -> int:
    """How many starts in a row have failed; those that are still under way do not count."""
    return len(_failed(folder))


def _failed(folder: Path) -> list[Path]:
    found = []
    for token in folder.glob("*-*"):
        with suppress(OSError), token.open() as opened:  # another process may just have wiped it out, or still hold it
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.append(token)
    return found
