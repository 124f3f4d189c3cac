"""Whether a page is still that of what its run holds: then nobody has to draw it again."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.report import PAGE, run_data

NAME = "deploytool-sources"
_FIRST = 4096  # characters of a page that hold its stamp


def of(home: Path, named: Path | None = None) -> str:
    """One digest of all that the page of a run depends on: what the run holds, what it is called, and how we draw."""
    return serde.digest(run_data.sources(home, named), _drawing())


def holds(home: Path, named: Path | None = None) -> bool:
    """Whether the page that lies there bears the stamp it would get now; where there is no run, none does."""
    try:
        with (home / PAGE).open(encoding="utf-8") as opened:
            head = opened.read(_FIRST)
    except (OSError, UnicodeDecodeError):
        return False
    try:
        return re.findall(rf'<meta name="{NAME}" content="(\w+)">', head) == [of(home, named)]
    except (BadInput, OSError):  # the run that it was the page of is gone
        return False


@cache
def _drawing() -> str:
    """Our own files: another version draws another page."""
    mine = [path for path in sorted(Path(__file__).parent.rglob("*")) if path.suffix in (".py", ".html", ".css")]
    return serde.digest([serde.file_digest(path) for path in mine])
