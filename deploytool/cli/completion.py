"""What the shell completes: names of models and targets, found without any of the heavy libraries."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from deploytool.errors import DeployError
from deploytool.host.terminal import visible
from deploytool.loading import catalog
from deploytool.rewrites.recipes import CHOICES
from deploytool.targets import TARGETS, THIS


def model(incomplete: str) -> list[str]:
    """The models whose names begin so."""
    with suppress(DeployError):  # of a package that adds models and is broken; the command itself will say so
        return [found.name for found in catalog.models() if found.name.startswith(incomplete)]
    return []


def path_or_model(incomplete: str) -> list[str]:
    """Folders and files that begin so, and models."""
    begun = Path(incomplete)
    folder = begun if incomplete.endswith("/") else begun.parent
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [f"{path}/" if path.is_dir() else str(path) for path in inside]
    shown = [name for name in names if name.startswith(incomplete) and name == visible(name)]
    return [*shown, *model(incomplete)]


def form(incomplete: str) -> list[str]:
    """The forms of a graph whose names begin so."""
    return [name for name in CHOICES if name.startswith(incomplete)]


def target(incomplete: str) -> list[tuple[str, str]]:
    """The targets that the last word of a list with commas begins, with examples of what they are."""
    before, comma, word = incomplete.rpartition(",")
    named = {name: target.examples for name, target in TARGETS.items()} | {THIS: "this machine"}
    given = before.split(",")
    return [
        (f"{before}{comma}{name}", what) for name, what in named.items() if name.startswith(word) and name not in given
    ]
