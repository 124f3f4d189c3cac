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
OPEN_FLAGS = sum(
    getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")
)  # as far as the system has them
_DEEPEST = 32  # folders in one another
UNFINISHED = ".making"  # how the name of an unfinished file ends
FETCH_AGAIN = "get the bundle again from where it was made"
_ITS_OWN = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENAMETOOLONG)


def listing(folder: Path, above: str = "") -> Iterator[tuple[str, int]]:
    """Every path below a folder, with slashes, and its mode; links are listed and not followed.

    Raises Refused for folders nested deeper than any bundle's.
    """
    if above.count("/") > _DEEPEST:
        raise Refused(f"{folder} is nested too deep", FETCH_AGAIN)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error, "give the folder of a bundle") from error
    for entry in entries:
        mode = entry.stat(follow_symlinks=False).st_mode
        yield above + entry.name, mode
        if stat.S_ISDIR(mode):
            yield from listing(Path(entry.path), f"{above}{entry.name}/")


def read(path: Path, most: int) -> bytes:
    """The bytes of a plain file, `most` at the most; raises Refused for anything else."""
    with os.fdopen(_opened(path), "rb") as opened:
        raw = opened.read(most + 1)
    if len(raw) > most:
        raise Refused(f"{path} is longer than it may be", FETCH_AGAIN)
    return raw


def verify_file(path: Path, size: int, sha256: str, to: Path | None = None) -> None:
    """Verifies the size in bytes and the SHA-256 of a plain file, and copies it to `to` if given.

    The copy is synced to the disk. Raises Refused if size or digest differ, and removes the copy.
    """
    try:
        _hold(path, size, sha256, to)
    except BaseException:
        if to is not None:
            to.unlink(missing_ok=True)
        raise


def _hold(path: Path, size: int, sha256: str, to: Path | None) -> None:
    with open_file(path) as there, (to or Path(os.devnull)).open("wb") as copy:
        if os.fstat(there.fileno()).st_size != size:
            raise Refused(f"{path} has another size than the manifest says", FETCH_AGAIN)
        for block in verified_blocks(there, path, size, sha256):
            if to is not None:
                with disk.writing(to, needed=size):
                    copy.write(block)
        if to is not None:
            with disk.writing(to, needed=size):
                copy.flush()
                os.fsync(copy.fileno())


def read_verified(path: Path, size: int, sha256: str) -> bytes:
    """Reads a plain file and verifies the bytes that it returns; raises Refused if size or digest differ."""
    with open_file(path) as there:
        return b"".join(verified_blocks(there, path, size, sha256))


def open_file(path: Path) -> BinaryIO:
    """Opens a plain file for reading; raises Refused for anything else."""
    return os.fdopen(_opened(path), "rb")


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
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _opened(path: Path) -> int:
    """A plain file, open for reading: a link is not followed, and a pipe does not make us wait."""
    try:
        if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | OPEN_FLAGS)
    except OSError as error:
        raise _unreadable(path, error, FETCH_AGAIN) from error
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise Refused(f"{path} is no plain file", FETCH_AGAIN)
    return opened


def _unreadable(path: Path, error: OSError, remedy: str) -> DeployError:
    """The error for a file that cannot be opened: Refused for a missing file or a link, else BadInput."""
    problem = f"{path} cannot be read: {error.strerror}"
    if error.errno in _ITS_OWN:
        return Refused(problem, remedy)
    return BadInput(problem, "check its rights, the disk, and how many files may be open")


def publish(path: Path, content: bytes, beside: Path | None = None) -> None:
    """Writes a file atomically: a reader sees the old bytes or the new, also after a crash.

    The temporary file is made in `beside`, a folder on the same disk, by default the folder of the file. Temporary
    files that killed processes left are removed.
    """
    making = (beside or path.parent) / f".{path.name}.{owner.name()}{UNFINISHED}"
    sweep(making.parent, f".{glob.escape(path.name)}.*{UNFINISHED}")
    try:
        with disk.writing(making, named=path, needed=len(content)):
            with making.open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            making.replace(path)
    except BaseException:
        making.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sweep(folder: Path, pattern: str) -> None:
    """Removes files and folders that match a pattern and were abandoned by their process."""
    for left in folder.glob(pattern):
        if owner.is_abandoned(left):
            remove(left)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder tree; ignores errors."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()
