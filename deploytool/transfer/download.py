"""Fetches one file: every byte hashed as it comes, and what was cut goes on where it was."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from deploytool.bundle.manifest import File
from deploytool.errors import Refused, Unreachable
from deploytool.host import disk, files
from deploytool.transfer.sources import Source

_TRIES = 3  # in a row that bring nothing


def fetch(source: Source, file: File, to: Path, parts: Path) -> int:
    """Puts one file in its place, begun anew where a try was cut; returns how many bytes came.

    Raises Refused for other bytes, and then keeps none; Unreachable when three tries in a row brought nothing.
    """
    part, fetched, vain = parts / file.sha256, 0, 0
    while True:
        begun = part.stat().st_size if part.exists() else 0
        try:
            _take(source, file, part)
        except Unreachable:
            came = (part.stat().st_size if part.exists() else 0) - begun
            fetched, vain = fetched + max(came, 0), 0 if came > 0 else vain + 1
            if vain == _TRIES:
                raise
        except Refused:
            part.unlink(missing_ok=True)
            if not begun:
                raise  # else what was here already may have been another file's
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            part.replace(to)
            return fetched + file.size - begun


def _take(source: Source, file: File, part: Path) -> None:
    """Goes on with a part until it is whole, and then holds it against size and digest."""
    total, seen = hashlib.sha256(), 0
    with part.open("a+b") as opened:
        opened.seek(0)
        while block := opened.read(1 << 20):
            total.update(block)
            seen += len(block)
        for block in source.stream(file, seen) if seen < file.size else ():
            total.update(block)
            seen += len(block)
            if seen > file.size:
                break
            with disk.writing(part, named=Path(file.path), needed=file.size):
                opened.write(block)
        with disk.writing(part, named=Path(file.path), needed=file.size):
            opened.flush()
            os.fsync(opened.fileno())
    if seen < file.size:
        raise Unreachable(f"{file.path} broke off after {seen} of {file.size} bytes", "try again: it goes on there")
    if (seen, total.hexdigest()) != (file.size, file.sha256):
        raise Refused(f"{file.path} came with other bytes than the manifest says", files.AGAIN)
