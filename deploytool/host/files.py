"""Lists, reads, hashes and copies files of unknown origin; follows no links and trusts no stated sizes."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from deploytool.errors import BadInput, DeployError, Refused
from deploytool.host import disk, owner

_BLOCK = 1 << 20
OPEN_FLAGS = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))  # those that the system has
_MAX_DEPTH = 32  # of nested folders
UNFINISHED = ".making"  # suffix of unfinished files
FETCH_AGAIN = "get the bundle again from where it was made"
_WRONG_KIND = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENAMETOOLONG)


def listing(folder: Path, above: str = "") -> Iterator[tuple[str, int]]:
    """Every path below a folder, with slashes, and its mode; links are listed and not followed.

    `above` is the prefix of the paths. Raises Refused if folders are nested deeper than in any bundle.
    """
    if above.count("/") > _MAX_DEPTH:
        raise Refused(f"{folder} is nested too deep", FETCH_AGAIN)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error, "give the path of a bundle") from error
    for entry in entries:
        mode = entry.stat(follow_symlinks=False).st_mode
        yield above + entry.name, mode
        if stat.S_ISDIR(mode):
            yield from listing(Path(entry.path), f"{above}{entry.name}/")


def read(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file; raises Refused for anything else and for more than `max_bytes`."""
    with os.fdopen(_open(path), "rb") as file:
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise Refused(f"{path} is longer than {max_bytes} bytes", FETCH_AGAIN)
    return raw


def verify_file(path: Path, size: int, sha256: str, to: Path | None = None) -> None:
    """Verifies the size in bytes and the SHA-256 of a regular file, and copies it to `to` if given.

    The copy is synced to the disk. Raises Refused if size or digest differ, and removes the copy.
    """
    try:
        _verify_and_copy(path, size, sha256, to)
    except BaseException:
        if to is not None:
            to.unlink(missing_ok=True)
        raise


def _verify_and_copy(path: Path, size: int, sha256: str, to: Path | None) -> None:
    with open_file(path) as source, (to or Path(os.devnull)).open("wb") as copy:
        if os.fstat(source.fileno()).st_size != size:
            raise Refused(f"{path} has another size than the manifest says", FETCH_AGAIN)
        for block in verified_blocks(source, path, size, sha256):
            if to is not None:
                with disk.writing(to, needed=size):
                    copy.write(block)
        if to is not None:
            with disk.writing(to, needed=size):
                copy.flush()
                os.fsync(copy.fileno())


def read_verified(path: Path, size: int, sha256: str) -> bytes:
    """Reads a regular file and verifies the bytes that it returns; raises Refused if size or digest differ."""
    with open_file(path) as file:
        return b"".join(verified_blocks(file, path, size, sha256))


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file for reading; raises Refused for anything else."""
    return os.fdopen(_open(path), "rb")


def verified_blocks(blocks: BinaryIO, path: object, size: int, sha256: str) -> Iterator[bytes]:
    """Yields the bytes of a file block by block; raises Refused at the end if size or digest differ."""
    total, seen = hashlib.sha256(), 0
    while seen <= size and (block := blocks.read(_BLOCK)):
        total.update(block)
        seen += len(block)
        yield block
    if (seen, total.hexdigest()) != (size, sha256):
        raise Refused(f"{path} has other bytes than the manifest says", FETCH_AGAIN)


def sync_folder(folder: Path) -> None:
    """Syncs a folder's entries to the disk, without which a rename may not survive a power cut."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """The descriptor of a regular file opened for reading; follows no link and does not block on a pipe."""
    try:
        if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | OPEN_FLAGS)
    except OSError as error:
        raise _unreadable(path, error, FETCH_AGAIN) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused(f"{path} is not a regular file", FETCH_AGAIN)
    return descriptor


def _unreadable(path: Path, error: OSError, remedy: str) -> DeployError:
    """The error for a file that cannot be opened: Refused for a missing file or a link, else BadInput."""
    problem = f"{path} cannot be read: {error.strerror}"
    if error.errno in _WRONG_KIND:
        return Refused(problem, remedy)
    return BadInput(problem, "check its permissions, the disk, and the limit on open files")


def publish(path: Path, content: bytes, beside: Path | None = None) -> None:
    """Writes a file atomically: a reader sees the old bytes or the new, also after a crash.

    The temporary file is made in `beside`, a folder on the same disk, by default the folder of the file. Temporary
    files of killed processes are removed.
    """
    temporary = (beside or path.parent) / f".{path.name}.{owner.name()}{UNFINISHED}"
    sweep(temporary.parent, f".{glob.escape(path.name)}.*{UNFINISHED}")
    try:
        with disk.writing(temporary, named=path, needed=len(content)):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sweep(folder: Path, pattern: str) -> None:
    """Removes files and folders that match a pattern and whose process has ended."""
    for path in folder.glob(pattern):
        if owner.is_abandoned(path):
            remove(path)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder tree; ignores errors."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()
