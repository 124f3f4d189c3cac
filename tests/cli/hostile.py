"""A text that does all a terminal lets a text do, put wherever a stranger can put one."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

FORGED = "Verdict: forged"
# colours, a bell, a new line, a cleared screen in 8 bits, turned writing, what has no width, other ends of lines, marks
_ODD = (
    f"\x1b[31m\x1b]0;t\x07\b\r\n{FORGED}.\x85\x9b2J\x7f\u200b\u202egnp\u2066\u2028\u2029\ufeff$x^$<b>&|[red]M :smile:"
)
NAME = f"{_ODD}\udcff"  # of a file: the last is a byte that is no UTF-8
HEADER = re.sub("[\r\n\x85\u2028\u2029]", "", NAME)  # of HTTP, where a line ends a header
TEXT = f"{_ODD}\0\ud800"  # of a document
SERVES = {"error": None, "result": {"verified": {"tier": TEXT}}}  # what an install there says
SPEAK_OF_NOBODY = {"targets", "train"}  # commands that show our own tables, the zoo's names, and figures


def poisoned(document: Any, kept: Collection[str] = (), where: str = "") -> Any:
    """The document with a hostile text in place of every text whose field is not among those kept."""
    if isinstance(document, dict):
        return {
            name: poisoned(each, kept, name if name in kept else f"{where}.{name}") for name, each in document.items()
        }
    if isinstance(document, list):
        return [poisoned(each, kept, where) for each in document]
    if isinstance(document, str) and where not in kept:
        return f"{where}{TEXT}"
    return document


def poison(path: Path, kept: Collection[str] = ()) -> None:
    """Spoils a file of JSON in this way."""
    path.write_text(json.dumps(poisoned(json.loads(path.read_text(encoding="utf-8")), kept)), encoding="ascii")


def harm(said: str) -> Iterator[str]:
    """What a terminal would have obeyed, or a reader believed."""
    for line in said.split("\n"):
        if bad := {letter for letter in line if unicodedata.category(letter)[0] == "C" or letter in "\u2028\u2029"}:
            yield f"{sorted(map(ascii, bad))} in {line[:200]!a}"
        if line.lstrip(" │|").startswith(FORGED):
            yield f"a line is forged: {line[:200]!a}"
        if FORGED in line and ("[red]M" not in line or ":smile:" not in line):
            yield f"a mark was obeyed in {line[:200]!a}"
