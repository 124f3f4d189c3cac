"""Keeps timed work alone on its machine: other work of any sweep holds a shared lock there, timed work the only one.

The lock is a file of this user in the folder for temporary files that all processes of the machine have in common.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploytool.host import locks, owner
from deploytool.results.sweep import CellResult

_COMMON = Path("/tmp")  # TMPDIR may be private to a process or a job; other users' locks are other files
_slot = threading.Lock()


def lock_file() -> Path:
    """The lock of this machine and user."""
    folder = _COMMON if os.access(_COMMON, os.W_OK) else Path(tempfile.gettempdir())
    return folder / f"deploytool-timing-{os.getuid() if hasattr(os, 'getuid') else 'user'}.lock"


@contextmanager
def on_this_machine(*, timed: bool, path: Path | None = None) -> Iterator[None]:
    """Waits until the work may run: timed work alone, other work beside other untimed work."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path or lock_file(), flags, 0o600)
    try:
        if not owner.is_trusted(os.fstat(descriptor)):
            raise PermissionError(1, "another user owns it", str(path or lock_file()))
        locks.acquire(descriptor, wait=True, shared=not timed)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def in_this_process() -> Iterator[None]:
    """Waits until no other job runs in this process: a worker with several threads has memory for one."""
    with _slot:
        yield


def overlaps(results: Sequence[CellResult]) -> list[tuple[str, str]]:
    """The names of each two cells that ran at the same time on one machine although one of them was timed."""
    ran = [result for result in results if result.started is not None and result.ended is not None and result.machine]
    found = []
    for index, one in enumerate(ran):
        for other in ran[index + 1 :]:
            are_together = one.started < other.ended and other.started < one.ended  # type: ignore[operator]
            if are_together and one.machine == other.machine and (one.timed or other.timed):
                found.append((one.cell.name, other.cell.name))
    return found
