"""Decides whether the page of a run is current, from a digest of its sources that is stored in the page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.report import sources
from deploytool.results.artifact import PAGE

META_NAME = "deploytool-sources"  # name of the HTML meta element
_HEAD = 4096  # characters at the start of a page that contain the digest


def compute(home: Path, final: Path | None = None) -> str:
    """The digest of everything that the page depends on: files and final path of the run, code of this package."""
    return serde.digest(sources.digest(home, final), _code_digest())


def is_current(home: Path, final: Path | None = None) -> bool:
    """Whether the page in a run's folder has the digest of the present sources; false if page or run is missing."""
    try:
        with (home / PAGE).open(encoding="utf-8") as page:
            head = page.read(_HEAD)
    except (OSError, UnicodeDecodeError):
        return False
    try:
        return re.findall(rf'<meta name="{META_NAME}" content="(\w+)">', head) == [compute(home, final)]
    except (BadInput, OSError):  # the page is still there, but the run is not
        return False


@cache
def _code_digest() -> str:
    """The digest of the modules and templates of this package: another version may draw another page."""
    paths = [path for path in sorted(Path(__file__).parent.rglob("*")) if path.suffix in (".py", ".html", ".css")]
    return serde.digest([serde.file_digest(path) for path in paths])
