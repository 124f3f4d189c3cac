"""Makes temporary folders whose names contain their process, and removes those of killed processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploytool.host import files, owner

_PREFIX = "deploytool-"


def make() -> Path:
    """Makes a temporary folder that only this user can read; removes abandoned ones.

    Raises OSError if there is no folder for temporary files.
    """
    try:
        parent = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, error.strerror, "TMPDIR") from error
    with suppress(OSError):
        _sweep(parent)
    path = parent / f"{_PREFIX}{owner.name()}"
    path.mkdir(mode=0o700)
    return path


@contextmanager
def folder() -> Iterator[Path]:
    """Makes a temporary folder, and removes it afterwards."""
    path = make()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Removes this user's folders whose process has ended; other users share the parent folder."""
    for path in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if owner.is_mine(path.lstat()) and owner.read(path.name) and owner.is_abandoned(path):
                files.remove(path)
