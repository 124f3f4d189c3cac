"""Shell completion of models, targets, rewrites and paths, without importing a heavy library."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from deploytool.errors import DeployError
from deploytool.host.terminal import visible
from deploytool.loading import catalog
from deploytool.targets import TARGETS, THIS


def model(incomplete: str) -> list[str]:
    """The models whose names begin with `incomplete`."""
    with suppress(DeployError):  # a package that adds models is broken; the command itself reports it
        return [entry.name for entry in catalog.models() if entry.name.startswith(incomplete)]
    return []


def path_or_model(incomplete: str) -> list[str]:
    """Folders, files and models whose names begin with `incomplete`."""
    start = Path(incomplete)
    folder = start if incomplete.endswith("/") else start.parent
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [f"{path}/" if path.is_dir() else str(path) for path in entries]
    paths = [name for name in names if name.startswith(incomplete) and name == visible(name)]
    return [*paths, *model(incomplete)]


def target(incomplete: str) -> list[tuple[str, str]]:
    """Completions of the last target in a comma-separated list, each with examples of its devices."""
    before, comma, word = incomplete.rpartition(",")
    targets = {name: target.examples for name, target in TARGETS.items()} | {THIS: "this machine"}
    listed = before.split(",")
    return [
        (f"{before}{comma}{name}", devices)
        for name, devices in targets.items()
        if name.startswith(word) and name not in listed
    ]
