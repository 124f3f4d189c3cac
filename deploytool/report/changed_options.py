"""Which options of a run are not the default, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploytool import serde
from deploytool.results.report import Report
from deploytool.serde import Json
from deploytool.spec import Options


def chosen(report: Report) -> list[tuple[str, str]]:
    """Every option that somebody set to something else than its default."""
    usual = serde.encode(Options())
    assert isinstance(usual, Mapping)
    return [(name, _said(value)) for name, value in sorted(report.choices.items()) if value != usual.get(name)]


def _said(value: Json) -> str:
    """A value in one line: a list with commas, a range from its smallest to its largest."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(item)}" for name, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_said(item) for item in value) or "none"
    return "none" if value is None else str(value)
