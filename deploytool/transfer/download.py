"""Downloads one file of a bundle: hashes it as it arrives, and resumes an interrupted download."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from deploytool.bundle.manifest import File
from deploytool.errors import Refused, Unreachable
from deploytool.host import disk, files
from deploytool.transfer.sources import Source

_TRIES = 3  # consecutive attempts without progress


def fetch(source: Source, file: File, to: Path, parts: Path) -> int:
    """Downloads a file to `to`, through a partial file in the folder `parts`; returns the number of bytes received.

    Raises Refused for other bytes than the manifest's and removes them, Unreachable after three consecutive attempts
    without progress.
    """
    part, fetched, failures = parts / file.sha256, 0, 0
    while True:
        offset = part.stat().st_size if part.exists() else 0
        try:
            _fetch_rest(source, file, part)
        except Unreachable:
            received = (part.stat().st_size if part.exists() else 0) - offset
            fetched, failures = fetched + max(received, 0), 0 if received > 0 else failures + 1
            if failures == _TRIES:
                raise
        except Refused:
            part.unlink(missing_ok=True)
            if not offset:
                raise  # otherwise the earlier part may be at fault: start again without it
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            part.replace(to)
            return fetched + file.size - offset


def _fetch_rest(source: Source, file: File, part: Path) -> None:
    """Completes a partial file, and verifies its size and digest."""
    digest, length = hashlib.sha256(), 0
    with part.open("a+b") as opened:
        opened.seek(0)
        while block := opened.read(1 << 20):
            digest.update(block)
            length += len(block)
        for block in source.stream(file, length) if length < file.size else ():
            digest.update(block)
            length += len(block)
            if length > file.size:
                break
            with disk.writing(part, named=Path(file.path), needed=file.size):
                opened.write(block)
        with disk.writing(part, named=Path(file.path), needed=file.size):
            opened.flush()
            os.fsync(opened.fileno())
    if length < file.size:
        raise Unreachable(
            f"{file.path} was interrupted after {length} of {file.size} bytes", "try again: the download resumes"
        )
    if (length, digest.hexdigest()) != (file.size, file.sha256):
        raise Refused(f"{file.path} has other bytes than the manifest says", files.FETCH_AGAIN)
