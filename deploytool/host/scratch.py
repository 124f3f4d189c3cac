"""Temporary folders whose names carry their process; the next command removes those of killed ones."""

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

    Raises OSError where there is no folder for temporary files.
    """
    try:
        above = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, error.strerror, "TMPDIR") from error
    with suppress(OSError):
        _sweep(above)
    made = above / f"{_PREFIX}{owner.name()}"
    made.mkdir(mode=0o700)
    return made


@contextmanager
def folder() -> Iterator[Path]:
    """Makes a temporary folder, and removes it afterwards."""
    made = make()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sweep(above: Path) -> None:
    """Removes folders of ended commands of this user; other users share the parent folder."""
    for left in above.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if owner.is_mine(left.lstat()) and owner.read(left.name) and owner.is_abandoned(left):
                files.remove(left)
