"""Whose code a run's folder may have run: the zoo's, an installed package's, or what this user exported himself.

A run names the factory that makes its model, and to build the model again is to run that. A folder that came from
elsewhere, with receipts that agree with each other, may name anything: so what a user exports is noted in his own
home, with the digests of all that the model's code read, and nothing else is run unless he says so.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from deploytool import catalog, factory, pipeline, plain, weights_file
from deploytool.artifact import Kind
from deploytool.errors import BadInput

_NOTES = Path(".local", "state", "deploytool", "exported")


def note(home: Path) -> None:
    """Notes that the code of this run's model is this user's own, or is one he asked for by its name."""
    with suppress(OSError, RuntimeError):  # nobody's home, or one that cannot be written: he will be asked later
        notes = Path.home() / _NOTES
        notes.mkdir(parents=True, exist_ok=True, mode=0o700)
        (notes / _digest(home)).touch()


def check(home: Path, *, trust_code: bool) -> None:
    """Refuses to build the model of a run whose code is not known to this user, or is no longer what it was.

    Raises BadInput.
    """
    reference = _reference(home)
    if not (trust_code or factory.is_zoo(reference) or _is_noted(home) or _is_added(reference)):
        problem = f"{home} would run the code of {reference}, which this user has not exported here"
        raise BadInput(problem, "export it here yourself, or give --trust-code if you trust where it comes from")
    pipeline.check_source(home)


def _reference(home: Path) -> str:
    return weights_file.definition(home / pipeline.BEGINNING / Kind.WEIGHTS.value).factory


def _is_noted(home: Path) -> bool:
    try:
        return (Path.home() / _NOTES / _digest(home)).is_file()
    except (OSError, RuntimeError):
        return False


def _is_added(reference: str) -> bool:
    """Whether an installed package adds this model by its entry point."""
    return any(model.factory == reference for model in catalog.models())


def _digest(home: Path) -> str:
    """One name for a factory and all that its code read, by which it is noted."""
    reference = _reference(home)
    try:
        project = str(factory.project(reference))
    except BadInput:  # the file is gone
        project = ""
    return plain.digest(reference, project, pipeline.sources(home))
