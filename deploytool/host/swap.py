"""Puts a folder in the place of another in one step of the file system, so that nobody ever sees half of either."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)
_CANNOT = {
    *(errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP),  # the kernel or the file system has no such call
    *(errno.EXDEV, errno.EBUSY, errno.EPERM, errno.EACCES),  # a mount point, or a folder above that is not ours
}
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if hasattr(os, "fork") else None


def exchange(one: Path, other: Path) -> bool:
    """Each path names afterwards what the other named; False where this cannot be done here.

    Raises OSError if one of them is not there, or for want of a working disk.
    """
    if _renameat2 is None:
        return False
    if _renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(other))


def link(source: Path, copy: Path) -> None:
    """Makes `copy` another name of a file, or where the disk has no such thing, a copy of it."""
    opened = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _linked(opened, source.name, copy)
    finally:
        os.close(opened)


def link_tree(source: Path, copy: Path) -> None:
    """Makes the folder `copy`, with every file of `source` under another name; raises OSError if one is not there.

    The folder that `source` names when this begins is the one that is read to the end, whatever takes its place.
    """
    opened = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _tree(opened, copy)
    finally:
        os.close(opened)


def _tree(folder: int, copy: Path) -> None:
    copy.mkdir()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inside = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                try:
                    _tree(inside, copy / entry.name)
                finally:
                    os.close(inside)
            else:
                _linked(folder, entry.name, copy / entry.name)


def _linked(folder: int, name: str, copy: Path) -> None:
    try:
        os.link(name, copy, src_dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, one without links, or a file that is not ours
        with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as there, copy.open("xb") as made:
            shutil.copyfileobj(there, made)


def flush(folder: Path) -> None:
    """Waits until every file below a folder, and the folder itself, is on the disk, as far as that can be asked."""
    for path in (*folder.rglob("*"), folder):
        with suppress(OSError):
            opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


def flush_names(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, as far as that can be asked."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
