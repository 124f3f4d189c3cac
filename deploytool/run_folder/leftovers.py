"""Finds what killed commands left and no later command removes: by name, location and age, listed before removal.

A leftover has a name that deploytool gives, contains what deploytool writes, belongs to this user, is not a link, and
its owning process is dead; where that cannot be determined, it has not changed for an hour.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploytool.host import disk, files, locks, owner
from deploytool.run_folder import publish
from deploytool.spec import Stage

FETCHING, LOCK = ".fetching", "lock"  # the suffix of a fetch's folder, and the lock in it
_OWNED = re.compile(r"\.(?:.+\.)?(?:making|staging)-.+|\..+\.making")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TRAINING = ("checkpoint.pt", "history.csv", "curve.svg", "weights.safetensors", "training.json")
_PARTIAL = ".unfinished"  # the suffix of a training's file that is still being written
_REPORT = Stage.VALIDATE.value  # the stage directory that only a finished run has


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can be removed, its size in bytes, and why it is there."""

    path: str
    size: int
    why: str


def find(folder: Path) -> list[Leftover]:
    """The leftovers in a folder, in its direct subfolders, and beside it under names derived from its own."""
    real = Path(os.path.realpath(folder))
    beside = [path for path in entries(real.parent) if path.name.startswith(f".{real.name}.")]
    inside = [path for parent in (real, *folders(real)) for path in entries(parent)]
    return list(identify((*beside, *inside)))


def identify(paths: Iterable[Path]) -> Iterator[Leftover]:
    """Those of the paths that are leftovers, by their names and what lies around them."""
    for path in dict.fromkeys(paths):
        if reason := _reason(path):
            yield from owned_leftover(path, reason)


def _reason(path: Path) -> str:
    """Why a path is a leftover; empty if it may be needed."""
    name, process = path.name, owner.read(path.name)
    if _OWNED.fullmatch(name):
        is_abandoned = process is not None and owner.is_abandoned(path)
        return f"process {process.pid} was making it, and is gone" if process and is_abandoned else ""
    if name == publish.UNFINISHED:
        is_abandoned = _is_unfinished(path) and is_idle(path, path.parent)
        return "an interrupted export left it; the next export continues from it" if is_abandoned else ""
    if name.endswith(FETCHING):
        is_abandoned = _is_fetch(path) and is_idle(path, path / LOCK)
        return "an interrupted pull left it; the next pull continues from it" if is_abandoned else ""
    if name.endswith(_PARTIAL):
        is_training_file = name.removesuffix(_PARTIAL) in _TRAINING and _is_training(path.parent)
        return "a training that was killed was writing it" if is_training_file and is_idle(path, path) else ""
    return ""


def owned_leftover(path: Path, reason: str) -> Iterator[Leftover]:
    """The path as a leftover, unless it is a link or belongs to another user."""
    with suppress(OSError):
        if not path.is_symlink() and owner.is_mine(path.lstat()):
            yield Leftover(str(path), _size(path), reason)


def remove(items: Iterable[Leftover]) -> list[Leftover]:
    """Removes leftovers, and returns those that could not be removed."""
    kept = []
    for item in items:
        files.remove(Path(item.path))
        if os.path.lexists(item.path):
            kept.append(item)
    return kept


def lines(items: Sequence[Leftover], *, gone: bool) -> Iterator[str]:
    """One line for each leftover, and one with their number, their size and whether they were removed (`gone`)."""
    for item in items:
        yield f"{disk.size(item.size):>10}  {item.path}: {item.why}"
    if not items:
        yield "Nothing was left behind."
    else:
        total = disk.size(sum(item.size for item in items))
        yield f"{len(items)} left behind, {total}: " + ("removed." if gone else "nothing was removed yet (--yes does).")


def is_idle(path: Path, lock: Path) -> bool:
    """Whether nothing below a path has changed for an hour, and its lock is free."""
    try:
        newest = max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
    except OSError:
        return False  # it is gone, or another command is changing it
    return time.time() - newest > owner.ABANDONED_S and not locks.is_held(lock)


def entries(folder: Path) -> list[Path]:
    """The direct entries of a folder, sorted; empty if it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def folders(folder: Path) -> list[Path]:
    """The direct subfolders of a folder, without links."""
    return [path for path in entries(folder) if path.is_dir() and not path.is_symlink()]


def _is_unfinished(path: Path) -> bool:
    return publish.is_stage_directory(path.parent / _REPORT) and all(map(publish.is_stage_directory, entries(path)))


def _is_fetch(path: Path) -> bool:
    return (path / LOCK).is_file() and all(
        entry.name == LOCK or (entry.is_dir() and _DIGEST.fullmatch(entry.name)) for entry in entries(path)
    )


def _is_training(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TRAINING)


def _size(path: Path) -> int:
    """The bytes of all files below a path; a link counts as itself."""
    paths = (path, *path.rglob("*"))
    return sum(entry.lstat().st_size for entry in paths if entry.is_symlink() or not entry.is_dir())
