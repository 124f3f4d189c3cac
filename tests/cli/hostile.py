"""Hostile text with control sequences for terminals, and its insertion into JSON documents."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

FORGED = "Verdict: forged"
# colours, bell, line breaks, 8-bit clear screen, right-to-left override, zero-width characters, markup
_ODD = (
    f"\x1b[31m\x1b]0;t\x07\b\r\n{FORGED}.\x85\x9b2J\x7f\u200b\u202egnp\u2066\u2028\u2029\ufeff$x^$<b>&|[red]M :smile:"
)
NAME = f"{_ODD}\udcff"  # for file names: the last byte is not UTF-8
HEADER = re.sub("[\r\n\x85\u2028\u2029]", "", NAME)  # for HTTP headers, which end at a line break
TEXT = f"{_ODD}\0\ud800"  # for JSON documents
SERVES = {"error": None, "result": {"verified": {"tier": TEXT}}}  # output of an install on the device
WITHOUT_FOREIGN_TEXT = {"targets", "train"}  # commands that print only own text, model names and numbers


def poisoned(document: Any, kept: Collection[str] = (), field: str = "") -> Any:
    """The document with hostile text in place of every string, except in the `kept` fields."""
    if isinstance(document, dict):
        return {
            name: poisoned(value, kept, name if name in kept else f"{field}.{name}") for name, value in document.items()
        }
    if isinstance(document, list):
        return [poisoned(value, kept, field) for value in document]
    if isinstance(document, str) and field not in kept:
        return f"{field}{TEXT}"
    return document


def poison(path: Path, kept: Collection[str] = ()) -> None:
    """Inserts hostile text into a JSON file."""
    path.write_text(json.dumps(poisoned(json.loads(path.read_text(encoding="utf-8")), kept)), encoding="ascii")


def find_harm(output: str) -> Iterator[str]:
    """Control characters, forged lines and interpreted markup in an output."""
    for line in output.split("\n"):
        control = {char for char in line if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"}
        if control:
            yield f"{sorted(map(ascii, control))} in {line[:200]!a}"
        if line.lstrip(" │|").startswith(FORGED):
            yield f"a line is forged: {line[:200]!a}"
        if FORGED in line and ("[red]M" not in line or ":smile:" not in line):
            yield f"markup was interpreted in {line[:200]!a}"
