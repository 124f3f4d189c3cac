"""Files of unknown origin: listed, read, hashed and copied without following a link or believing a size."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from deploytool.errors import Refused

_BLOCK = 1 << 20
AGAIN = "get the bundle again from where it was made"


def listing(folder: Path, above: str = "") -> Iterator[tuple[str, int]]:
    """Every path below a folder, with slashes, and its mode; links are listed and not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise Refused(f"{folder} cannot be read: {error.strerror}", "give the folder of a bundle") from error
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
        raise Refused(f"{path} is longer than it may be", AGAIN)
    return raw


def hold(path: Path, size: int, sha256: str, to: Path | None = None) -> None:
    """Holds a plain file against its size in bytes and its SHA-256, and copies it on the way if `to` is given.

    A copy is on the disk when the call returns. Raises Refused if size or digest are others; the copy is then gone.
    """
    try:
        _hold(path, size, sha256, to)
    except BaseException:
        if to is not None:
            to.unlink(missing_ok=True)
        raise


def _hold(path: Path, size: int, sha256: str, to: Path | None) -> None:
    with opened(path) as there, (to or Path(os.devnull)).open("wb") as copy:
        if os.fstat(there.fileno()).st_size != size:
            raise Refused(f"{path} has another size than the manifest says", AGAIN)
        for block in held(there, path, size, sha256):
            if to is not None:
                copy.write(block)
        if to is not None:
            copy.flush()
            os.fsync(copy.fileno())


def opened(path: Path) -> BinaryIO:
    """A plain file, open for reading; raises Refused for anything else."""
    return os.fdopen(_opened(path), "rb")


def held(blocks: BinaryIO, path: object, size: int, sha256: str) -> Iterator[bytes]:
    """The bytes of a file, block by block; raises Refused at its end if they were not those of its digest."""
    total, seen = hashlib.sha256(), 0
    while seen <= size and (block := blocks.read(_BLOCK)):
        total.update(block)
        seen += len(block)
        yield block
    if (seen, total.hexdigest()) != (size, sha256):
        raise Refused(f"{path} has other bytes than the manifest says", AGAIN)


def settle(folder: Path) -> None:
    """Waits until a folder's own entries are on the disk: a rename is at once, and only then for good."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _opened(path: Path) -> int:
    """A plain file, open for reading: a link is not followed, and a pipe does not make us wait."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}", AGAIN) from error
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise Refused(f"{path} is no plain file", AGAIN)
    return opened


def publish(path: Path, content: bytes) -> None:
    """Puts a file in its place as a whole: whoever reads it sees the old bytes or the new, also after a crash."""
    making = path.with_name(f".{path.name}.{os.getpid()}.making")
    with making.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    making.replace(path)
    settle(path.parent)
