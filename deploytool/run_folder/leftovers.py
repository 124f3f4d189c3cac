"""What killed commands left and no other command comes by: found by name, place and age, and shown before it goes.

Only what is provably ours and nobody's any more counts: it bears a name that we give and holds what we put there, it
belongs to this user, is no link, and its owner is dead; where that cannot be asked, nobody touched it for an hour.
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

FETCHING, LOCK = ".fetching", "lock"  # how a fetch's folder ends, and its lock
_OWNED = re.compile(r"\.(?:.+\.)?(?:making|staging)-.+|\..+\.making")
_SEAL = re.compile(r"[0-9a-f]{64}")
_TRAINING = ("checkpoint.pt", "history.csv", "curve.svg", "weights.safetensors", "training.json")
_HALF = ".unfinished"  # how the name of a training's file ends that is not whole
_REPORT = Stage.VALIDATE.value  # the room that only a run which came to its end has


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nobody needs any more, its bytes, and why it lies there."""

    path: str
    size: int
    why: str


def found(folder: Path) -> list[Leftover]:
    """What lies in a folder, in those directly in it, and beside it under names made from its own."""
    real = Path(os.path.realpath(folder))
    beside = [path for path in entries(real.parent) if path.name.startswith(f".{real.name}.")]
    inside = [path for place in (real, *folders(real)) for path in entries(place)]
    return list(describe((*beside, *inside)))


def describe(paths: Iterable[Path]) -> Iterator[Leftover]:
    """Those of the paths that are litter by themselves, by their names and what lies around them."""
    for path in dict.fromkeys(paths):
        if why := _why(path):
            yield from of(path, why)


def _why(path: Path) -> str:
    """Why it lies there; empty where it may be needed."""
    name, whose = path.name, owner.read(path.name)
    if _OWNED.fullmatch(name):
        left = whose is not None and owner.is_abandoned(path)
        return f"process {whose.pid} was making it, and is gone" if whose and left else ""
    if name == publish.UNFINISHED:
        left = _is_unfinished(path) and is_idle(path, path.parent)
        return "an export that did not come to its end left it for the next to go on from" if left else ""
    if name.endswith(FETCHING):
        left = _is_fetch(path) and is_idle(path, path / LOCK)
        return "a pull that was cut left it for the next to go on from" if left else ""
    if name.endswith(_HALF):
        left = name.removesuffix(_HALF) in _TRAINING and _is_training(path.parent) and is_idle(path, path)
        return "a training that was killed was writing it" if left else ""
    return ""


def of(path: Path, why: str) -> Iterator[Leftover]:
    """One of this user's own; a link is not followed, and what belongs to somebody else stays."""
    with suppress(OSError):
        if not path.is_symlink() and owner.is_mine(path.lstat()):
            yield Leftover(str(path), _size(path), why)


def remove(items: Iterable[Leftover]) -> list[Leftover]:
    """Takes them away, and gives those that could not be."""
    kept = []
    for item in items:
        files.remove(Path(item.path))
        if os.path.lexists(item.path):
            kept.append(item)
    return kept


def lines(items: Sequence[Leftover], *, gone: bool) -> Iterator[str]:
    """What was found, one a line, and in the last how much and what became of it."""
    for item in items:
        yield f"{disk.size(item.size):>10}  {item.path}: {item.why}"
    if not items:
        yield "Nothing was left behind."
    else:
        total = disk.size(sum(item.size for item in items))
        yield f"{len(items)} left behind, {total}: " + ("removed." if gone else "nothing was removed yet (--yes does).")


def is_idle(path: Path, lock: Path) -> bool:
    """Whether nothing there was touched for an hour, and nobody has the lock."""
    try:
        newest = max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    except OSError:
        return False  # it is gone, or somebody works there
    return time.time() - newest > owner.ABANDONED_S and not locks.is_held(lock)


def entries(folder: Path) -> list[Path]:
    """What lies directly in a folder; nothing where it cannot be looked into."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def folders(folder: Path) -> list[Path]:
    """The folders directly in a folder, links aside."""
    return [path for path in entries(folder) if path.is_dir() and not path.is_symlink()]


def _is_unfinished(path: Path) -> bool:
    return publish.is_stage_directory(path.parent / _REPORT) and all(map(publish.is_stage_directory, entries(path)))


def _is_fetch(path: Path) -> bool:
    return (path / LOCK).is_file() and all(
        each.name == LOCK or (each.is_dir() and _SEAL.fullmatch(each.name)) for each in entries(path)
    )


def _is_training(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TRAINING)


def _size(path: Path) -> int:
    return sum(each.lstat().st_size for each in (path, *path.rglob("*")) if each.is_symlink() or not each.is_dir())
