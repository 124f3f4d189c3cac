"""Decides whose code a run may have executed: the zoo's, an installed package's, or what this user exported.

A run names the factory of its model, and building the model again runs that factory. A folder from elsewhere may name
any factory, with receipts that agree with each other. So each export is recorded in the user's home, with the digests
of everything that the model's code read, and no other code runs without --trust-code.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput, DeployError
from deploytool.host import files, owner
from deploytool.loading import catalog, factory, weights_file
from deploytool.pipeline import runner
from deploytool.results.artifact import Kind
from deploytool.spec import SourceKind

_MOST, _LONGEST = 100, 1 << 20  # run folders in a note, and its bytes
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOTES = Path(".local", "state", "deploytool", "exported")


def note(home: Path) -> None:
    """Records that this user exported the code of this run's model."""
    with suppress(OSError, RuntimeError):  # without a writable home, later commands need --trust-code
        notes = Path.home() / _NOTES
        notes.mkdir(parents=True, exist_ok=True, mode=0o700)
        _add(notes / _digest(home), str(home.absolute()))


def expired() -> list[Path]:
    """The notes whose runs no longer exist, and that are at least an hour old."""
    with suppress(OSError, RuntimeError):
        return [note for note in sorted((Path.home() / _NOTES).iterdir()) if _is_unneeded(note)]
    return []


def _is_unneeded(note: Path) -> bool:
    """Whether a note may be removed; one that names no run is from an earlier version and is kept."""
    try:
        homes, is_old = _homes(note), time.time() - note.lstat().st_mtime > owner.ABANDONED_S
    except OSError:
        return False
    existing = [home for home in homes if (Path(home) / runner.FIRST).is_dir()]
    return _DIGEST.fullmatch(note.name) is not None and bool(homes) and not existing and is_old


def _add(note: Path, home: str) -> None:
    """Creates a note, or adds a run's folder to it; `expired` removes notes whose folders are gone."""
    known = _homes(note) if note.exists() else []
    if home not in known or not note.exists():
        files.publish(note, json.dumps([*known, home][-_MOST:]).encode())


def _homes(note: Path) -> list[str]:
    try:
        return list(serde.decode(tuple[str, ...], serde.loads(files.read(note, _LONGEST))))
    except (DeployError, serde.Malformed):
        return []


def check(home: Path, *, trust_code: bool) -> None:
    """Raises BadInput if this user has not exported the code of a run's model, or if that code has changed since."""
    reference = _reference(home)
    runs_code = factory.kind(reference) is SourceKind.CODE
    if runs_code and not (trust_code or _is_noted(home) or _is_added(reference)):
        problem = f"{home} would run the code of {reference}, which this user has not exported here"
        raise BadInput(problem, "export it here yourself, or give --trust-code if you trust its origin")
    runner.check_source(home)


def _reference(home: Path) -> str:
    return weights_file.definition(home / runner.FIRST / Kind.WEIGHTS.value).factory


def _is_noted(home: Path) -> bool:
    try:
        return (Path.home() / _NOTES / _digest(home)).is_file()
    except (OSError, RuntimeError):
        return False


def _is_added(reference: str) -> bool:
    """Whether an installed package adds this model by its entry point."""
    return any(model.factory == reference for model in catalog.models())


def _digest(home: Path) -> str:
    """The name of a note: the digest of the factory and of every file that its code read."""
    reference = _reference(home)
    try:
        project = str(factory.project_folder(reference))
    except BadInput:  # the file is gone
        project = ""
    return serde.digest(reference, project, runner.sources(home))
