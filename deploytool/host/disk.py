"""What keeps a file from being written, in one line that names it; and whether there is room before the work.

A full disk, a used-up quota, a limit on the size of files and a failing disk end in an error that every library words
in its own way: it is looked for in whatever was raised, and in all that it was raised from.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploytool.errors import DeployError, NoRoom, StageFailed

_ROOM = "make room on the disk, or choose another folder"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: "your quota of the disk is used up: remove files, or choose another folder",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), or choose another disk",
    errno.EIO: "the disk fails: see what the system says of it, or choose another",
}
_NUMBERED = re.compile(r"\(os error (\d+)\)")  # as Rust words it
_DEEPEST = 20  # exceptions raised from one another


def size(number: float) -> str:
    """A number of bytes in the largest unit that leaves it at least 1: `512 B`, `1.5 KB`, `97.3 MB`, `2.1 GB`.

    Units are decimal. One digit after the point is given below 100, none from there on and for bytes.
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if number >= factor * 0.9995:  # what rounds to 1000 of a unit is 1 of the next
            value = number / factor
            return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"
    return f"{number:.0f} B"


def check(folder: Path, needed: float, what: str) -> None:
    """Raises NoRoom where a folder, which need not be there yet, has less room than `what` needs in bytes."""
    free = _free(folder)
    if free is not None and free < needed:
        raise NoRoom(f"{folder} has {size(free)} free, and {what} takes {size(needed)}", _ROOM)


def _free(path: Path) -> int | None:
    """The free bytes where a path is or would be; None where nobody tells: what is no disk, as /proc, has no size."""
    for place in (path.absolute(), *path.absolute().parents):
        with suppress(OSError):
            disk = shutil.disk_usage(place)
            return disk.free if disk.total else None
    return None


def write(path: Path, content: bytes) -> None:
    """Writes a file; raises NoRoom, which names it and its size, if it does not go on the disk."""
    with writing(path, needed=len(content)):
        path.write_bytes(content)


@contextmanager
def writing(path: Path, *, named: Path | None = None, needed: float | None = None) -> Iterator[None]:
    """Raises NoRoom, which names `path`, from whatever is raised meanwhile because a file cannot be written.

    Where `path` is a folder, the file of it that was written last is named; `named` is what the user knows `path` as,
    `needed` how many bytes go there, if that is known.
    """
    try:
        yield
    except NoRoom as error:
        raise NoRoom(str(error).replace(str(path), str(named or path)), error.remedy) from error
    except Exception as error:
        found = cause(error)
        if found is None:
            raise
        raise _refused(_file(path, found, named or path), found, needed) from error


def as_no_room(error: BaseException) -> NoRoom | None:
    """The failure of ours that an exception becomes; None if no disk is behind it."""
    found = cause(error)
    return None if found is None else _refused(Path(os.fsdecode(found.filename or "a file")), found, None)


def cause(error: BaseException) -> OSError | None:
    """The error of a disk that an exception is, or was raised from; None if there is none."""
    found: BaseException | None = (
        None if isinstance(error, DeployError) and not isinstance(error, StageFailed) else error
    )
    for _ in range(_DEEPEST):
        if found is None:
            return None
        if isinstance(found, OSError) and found.errno in _REMEDIES:
            return found
        if not isinstance(found, DeployError) and (code := error_number(_words(found))):
            return OSError(code, os.strerror(code))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return None


def _words(error: BaseException) -> str:
    with suppress(Exception):  # its own code may raise anything
        return str(error)
    return ""


def error_number(words: str) -> int | None:
    """The number of the disk's error that a library's words tell of; None if they tell of none."""
    numbered = _NUMBERED.search(words)
    if numbered:
        return int(numbered[1]) if int(numbered[1]) in _REMEDIES else None
    return next((code for code in _REMEDIES if os.strerror(code) in words), None)


def failure(name: object, code: int, needed: float | None = None) -> NoRoom:
    """The failure to write what is called so, for an error of that number."""
    takes = f", and it takes {size(needed)}" if needed else ""
    what = "read or written" if code == errno.EIO else "written"  # a broken disk may refuse both
    return NoRoom(f"{name} cannot be {what}: {os.strerror(code)}{takes}", _REMEDIES[code])


def _refused(name: Path, error: OSError, needed: float | None) -> NoRoom:
    assert error.errno is not None  # it is one of those above
    found = failure(name, error.errno, needed)
    free = _free(name.parent) if error.errno == errno.ENOSPC else None
    return found if free is None else NoRoom(f"{found} ({size(free)} free)", found.remedy)


def _file(path: Path, error: OSError, named: Path) -> Path:
    """The file that could not be written, by the name that the user knows it by."""
    there = Path(os.fsdecode(error.filename)) if error.filename else path
    if not error.filename and path.is_dir():
        inside = [each for each in path.rglob("*") if each.is_file()]
        there = max(inside, key=lambda each: each.stat().st_mtime_ns, default=path)
    return named / there.relative_to(path) if there.is_relative_to(path) else there
