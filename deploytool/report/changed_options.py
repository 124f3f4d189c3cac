"""Lists the options of a run that differ from their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploytool import serde
from deploytool.results.report import Report
from deploytool.serde import Json
from deploytool.spec import Options


def changed_options(report: Report) -> list[tuple[str, str]]:
    """Name and value of every option that differs from its default, sorted by name."""
    defaults = serde.encode(Options())
    assert isinstance(defaults, Mapping)
    return [(name, _format(value)) for name, value in sorted(report.options.items()) if value != defaults.get(name)]


def _format(value: Json) -> str:
    """A value in one line; lists are separated by commas, and a mapping lists its names with their values."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format(item)}" for name, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_format(item) for item in value) or "none"
    return "none" if value is None else str(value)
