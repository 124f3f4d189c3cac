"""Folders for temporary files that carry their owner: what a killed command left is swept by the next one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploytool.host import files, owner

_PREFIX = "deploytool-"


def make() -> Path:
    """A new folder that only we can enter, among the system's temporary ones; abandoned ones of ours go.

    Raises OSError where there is no place for temporary files.
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
    """Such a folder, gone afterwards."""
    made = make()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sweep(above: Path) -> None:
    """Removes what dead commands of this user left: others may use the same place and such a name."""
    for left in above.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if owner.is_mine(left.lstat()) and owner.read(left.name) and owner.is_abandoned(left):
                files.remove(left)
