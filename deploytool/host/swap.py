"""Exchanges two folders atomically, copies trees by hard links, and syncs them to the disk."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)
_UNSUPPORTED = {
    *(errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP),  # no such call in the kernel or the file system
    *(errno.EXDEV, errno.EBUSY, errno.EPERM, errno.EACCES),  # a mount point, or a parent folder of another user
}
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if hasattr(os, "fork") else None


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two paths atomically; returns False where the system or the file system does not support it.

    Raises OSError if a path does not exist, or on an I/O error.
    """
    if _renameat2 is None:
        return False
    if _renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))


def link(source: Path, copy: Path) -> None:
    """Makes `copy` a hard link to a file, or a copy where the disk has no hard links."""
    parent = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _link_file(parent, source.name, copy)
    finally:
        os.close(parent)


def link_tree(source: Path, copy: Path) -> None:
    """Makes the folder `copy` with hard links to every file of `source`; raises OSError if a file disappears.

    `source` is opened once, so another folder that is renamed to its path meanwhile is not read.
    """
    folder = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _link_entries(folder, copy)
    finally:
        os.close(folder)


def _link_entries(folder: int, copy: Path) -> None:
    copy.mkdir()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                subfolder = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                try:
                    _link_entries(subfolder, copy / entry.name)
                finally:
                    os.close(subfolder)
            else:
                _link_file(folder, entry.name, copy / entry.name)


def _link_file(folder: int, name: str, copy: Path) -> None:
    try:
        os.link(name, copy, src_dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, a disk without hard links, or a file of another user
        with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as source, copy.open("xb") as target:
            shutil.copyfileobj(source, target)


def flush(folder: Path) -> None:
    """Syncs every file below a folder, and the folder itself, to the disk, where the system supports it."""
    for path in (*folder.rglob("*"), folder):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def flush_names(folder: Path) -> None:
    """Syncs the entries of a folder to the disk, where the system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
