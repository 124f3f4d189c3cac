"""Keeps the cache of a worker below a size: what was not used for longest is removed, and never what runs.

The cache has `files`, each kept once by its digest; `disk` with a mirror for each sweep, whose files are links to them;
and `locks` with a file for each mirror, which jobs hold while they run.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deploytool.host import files, locks

FILES, DISK = "files", "disk"
LIMIT_BYTES = 20 << 30
_LOCKS, _TRIM = "locks", "trim"
_GRACE_S = 600.0  # what was used since is kept: the client may still send its job, or fetch its result


@dataclass(frozen=True)
class _Unit:
    """A mirror or a kept file that can be removed, and when it was used last, in seconds since 1970."""

    used: float
    path: Path


@contextmanager
def in_use(cache: Path, mirror: str) -> Iterator[None]:
    """Keeps a mirror, by its name, while a job runs in it."""
    folder = cache / _LOCKS
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / mirror, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        locks.acquire(descriptor, wait=True, shared=True)
        os.utime(folder / mirror)
        yield
    finally:
        with suppress(OSError):
            os.utime(folder / mirror)
        os.close(descriptor)


def touch(kept: Path) -> None:
    """Marks a kept file as used now; its time of modification stays."""
    with suppress(OSError):
        os.utime(kept, ns=(time.time_ns(), kept.stat().st_mtime_ns))


def trim(cache: Path, limit: int = LIMIT_BYTES) -> None:
    """Removes from a cache what was used least recently until it is below the limit, and below half of its disk.

    Mirrors in which a job runs, their files, and what was used in the last ten minutes are kept.
    """
    with _alone(cache) as is_alone:
        if not is_alone:
            return  # another worker of this machine does it
        excess = _excess(cache, limit)
        newest = time.time() - _GRACE_S
        mirrors = sorted(_units(cache, DISK), key=lambda unit: unit.used)
        for mirror in [each for each in mirrors if each.used < newest]:
            excess -= _remove_kept(cache, mirror.used, excess)  # files that no mirror has
            if excess > 0 and not locks.is_held(cache / _LOCKS / mirror.path.name):
                excess -= _size(mirror.path.rglob("*"), alone=True)
                files.remove(mirror.path)
                excess -= _remove_kept(cache, mirror.used, excess)
        _remove_kept(cache, newest, excess)


def _excess(cache: Path, limit: int) -> int:
    """The bytes by which a cache is too large."""
    size = _size(cache.rglob("*"))
    return size - min(limit, (size + shutil.disk_usage(cache).free) // 2)


@contextmanager
def _alone(cache: Path) -> Iterator[bool]:
    """Whether no other process trims the cache."""
    descriptor = os.open(cache / _LOCKS / _TRIM, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield locks.acquire(descriptor)
    finally:
        os.close(descriptor)


def _units(cache: Path, kind: str) -> Iterator[_Unit]:
    """The mirrors or the kept files."""
    for path in (cache / kind).glob("*"):
        lock = cache / _LOCKS / path.name
        with suppress(OSError):
            yield _Unit(lock.stat().st_mtime if kind == DISK and lock.exists() else path.stat().st_atime, path)


def _remove_kept(cache: Path, newest: float, most: int) -> int:
    """Removes kept files that no mirror has and that were not used after `newest`, until `most` bytes are free."""
    freed = 0
    for unit in sorted(_units(cache, FILES), key=lambda unit: unit.used):
        if freed >= most or unit.used > newest:
            break
        with suppress(OSError):
            status = unit.path.stat()
            if status.st_nlink == 1:
                unit.path.unlink()
                freed += status.st_size
    return freed


def _size(paths: Iterable[Path], *, alone: bool = False) -> int:
    """The bytes of files, each once, whatever its number of links; with `alone` of those with one link."""
    found = {}
    for path in paths:
        with suppress(OSError):
            status = path.lstat()
            if path.is_file() and not (alone and status.st_nlink > 1):
                found[(status.st_dev, status.st_ino)] = status.st_size
    return sum(found.values())
