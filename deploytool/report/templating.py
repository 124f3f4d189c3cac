"""The environment of the page templates: every text is escaped, and control characters are made visible."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deploytool.host import disk, terminal
from deploytool.report import rows


def environment() -> Environment:
    """An environment with the templates and filters of the pages."""
    made = Environment(
        loader=PackageLoader("deploytool.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    made.filters |= {
        "error": rows.error,
        "size": disk.size,
        "words": lambda name: name.replace("_", " "),
        "drawn": lambda plot: Markup(plot.svg),  # made by this package, with every text in it escaped
    }
    return made


def _finalize(value: object) -> str:
    """A template value without control characters; markup keeps its line breaks."""
    if isinstance(value, Markup):
        return Markup("\n".join(terminal.visible(line) for line in str(value).split("\n")))
    return terminal.visible(str(value))
