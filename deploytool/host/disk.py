"""Turns every kind of write error into one error that names the file, and checks for free space beforehand.

Libraries report a full disk, a used-up quota, a limit on the size of files and an I/O error each in their own way: the
error is searched for in the exception and in all exceptions that caused it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploytool.errors import DeployError, ResourceExhausted, StageFailed
from deploytool.host import rounded

_FREE_SPACE = "free disk space, or choose another folder"
_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: "your disk quota is used up: remove files, or choose another folder",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), or choose another disk",
    errno.EIO: "the disk has an I/O error: check the system log, or choose another disk",
}
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # in messages of Rust libraries
_MAX_CAUSES = 20  # exceptions in a chain of causes


def size(number: float, more: int = 0) -> str:
    """A number of bytes in the largest unit that leaves it at least 1: `512 B`, `1.5 KB`, `97.3 MB`, `2.1 GB`.

    Units are decimal. Values below 100 have one decimal, larger values and bytes have none, and all so many `more`.
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if number >= factor * 0.9995:  # a value that rounds to 1000 is shown as 1 of the next unit
            value = number / factor
            return f"{value:.{more}f} {unit}" if value >= 99.95 else f"{value:.{1 + more}f} {unit}"
    return f"{number:.0f} B"


def sizes(first: float, second: float) -> tuple[str, str]:
    """Two numbers of bytes that are compared."""
    return rounded.apart(first, second, size, 0)


def check(folder: Path, needed: float, what: str) -> None:
    """Raises ResourceExhausted if a folder has less than `needed` bytes free for `what`; it need not exist yet."""
    free = _free(folder)
    if free is not None and free < needed:
        has, takes = sizes(free, needed)
        raise ResourceExhausted(f"{folder} has {has} free, and {what} takes {takes}", _FREE_SPACE)


def _free(path: Path) -> int | None:
    """The free bytes on the disk of a path, which need not exist; None if unknown or not a disk, such as /proc."""
    for existing in (path.absolute(), *path.absolute().parents):
        with suppress(OSError):
            disk = shutil.disk_usage(existing)
            return disk.free if disk.total else None
    return None


def write(path: Path, content: bytes) -> None:
    """Writes a file; raises ResourceExhausted, with the name and size of the file, if it cannot be written."""
    with writing(path, needed=len(content)):
        path.write_bytes(content)


@contextmanager
def writing(path: Path, *, named: Path | None = None, needed: float | None = None) -> Iterator[None]:
    """Converts write errors in its body to ResourceExhausted, with the name of `path`.

    If `path` is a folder, the error names the file in it that was written last. `named` is the path that the user
    knows, if `path` is temporary; `needed` is the number of bytes to be written, if known.
    """
    try:
        yield
    except ResourceExhausted as error:
        raise ResourceExhausted(str(error).replace(str(path), str(named or path)), error.remedy) from error
    except Exception as error:
        disk_error = cause(error)
        if disk_error is None:
            raise
        raise _write_failure(_failed_file(path, disk_error, named or path), disk_error, needed) from error


def as_resource_exhausted(error: BaseException) -> ResourceExhausted | None:
    """The ResourceExhausted for an exception that a disk error caused; None for any other."""
    disk_error = cause(error)
    if disk_error is None:
        return None
    return _write_failure(Path(os.fsdecode(disk_error.filename or "a file")), disk_error, None)


def cause(error: BaseException) -> OSError | None:
    """The disk error that an exception is, or was raised from; None if there is none."""
    current: BaseException | None = (
        None if isinstance(error, DeployError) and not isinstance(error, StageFailed) else error
    )
    for _ in range(_MAX_CAUSES):
        if current is None:
            return None
        if isinstance(current, OSError) and current.errno in _REMEDIES:
            return current
        if not isinstance(current, DeployError) and (code := error_number(_message(current))):
            return OSError(code, os.strerror(code))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return None


def _message(error: BaseException) -> str:
    with suppress(Exception):  # __str__ of a foreign class may raise anything
        return str(error)
    return ""


def error_number(message: str) -> int | None:
    """The errno of the disk error in a library's message; None if there is none."""
    match = _RUST_ERROR.search(message)
    if match:
        return int(match[1]) if int(match[1]) in _REMEDIES else None
    return next((code for code in _REMEDIES if os.strerror(code) in message), None)


def failure(name: object, code: int, needed: float | None = None) -> ResourceExhausted:
    """The error for a file or other output `name` that cannot be written; `code` is an errno of a disk error."""
    takes = f", and it takes {size(needed)}" if needed else ""
    what = "read or written" if code == errno.EIO else "written"  # an I/O error may come from either
    return ResourceExhausted(f"{name} cannot be {what}: {os.strerror(code)}{takes}", _REMEDIES[code])


def _write_failure(name: Path, error: OSError, needed: float | None) -> ResourceExhausted:
    assert error.errno is not None  # `cause` returns errors with an errno of _REMEDIES
    exhausted = failure(name, error.errno, needed)
    free = _free(name.parent) if error.errno == errno.ENOSPC else None
    return exhausted if free is None else ResourceExhausted(f"{exhausted} ({size(free)} free)", exhausted.remedy)


def _failed_file(path: Path, error: OSError, named: Path) -> Path:
    """The file that could not be written, with `path` replaced by `named`."""
    file = Path(os.fsdecode(error.filename)) if error.filename else path
    if not error.filename and path.is_dir():
        files = [entry for entry in path.rglob("*") if entry.is_file()]
        file = max(files, key=lambda entry: entry.stat().st_mtime_ns, default=path)
    return named / file.relative_to(path) if file.is_relative_to(path) else file
