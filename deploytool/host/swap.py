"""Exchanges two folders atomically, copies trees by hard links, and syncs them to the disk."""

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
    """Exchanges two paths atomically; returns False where the system or the file system does not support it.

    Raises OSError if one of them does not exist, or the disk fails.
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
    """Makes `copy` a hard link to a file, or a copy where the disk has no hard links."""
    opened = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _linked(opened, source.name, copy)
    finally:
        os.close(opened)


def link_tree(source: Path, copy: Path) -> None:
    """Makes the folder `copy` with hard links to every file of `source`; raises OSError if a file disappears.

    `source` is opened once, so another folder that is renamed to its path meanwhile is not read.
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
    """Syncs every file below a folder, and the folder itself, to the disk, where the system can."""
    for path in (*folder.rglob("*"), folder):
        with suppress(OSError):
            opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


def flush_names(folder: Path) -> None:
    """Syncs the entries of a folder to the disk, where the system can."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
