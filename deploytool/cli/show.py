"""`deploytool show`: what a run, or any one artifact of it, is and came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool import pipeline, receipt, report
from deploytool.artifact import Kind
from deploytool.cli import screen, summary
from deploytool.errors import BadInput
from deploytool.receipt import Receipt


def show(
    path: Annotated[Path, typer.Argument(help="A run's folder, or a file in it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Shows a run's report, or where one of its artifacts came from and whether it is still what was made."""
    if path.is_file():
        _artifact(path, as_json)
        return
    found = pipeline.rooms(path)
    if not found:
        raise BadInput(f"{path} holds no run", "give a folder that `deploytool export` made, or a file in one")
    if as_json:
        screen.document([sealed for _, sealed in found])
        return
    rows = [_row(room, sealed) for room, sealed in found]
    screen.table(screen.people(as_json=False), "What was made", ("artifact", ">seconds", "digest", "state"), rows)
    written = path / "validate" / Kind.REPORT.value
    if written.is_file():
        summary.show(screen.people(as_json=False), report.read(written), path)


def _row(room: Path, sealed: Receipt) -> tuple[str, ...]:
    state = "as made" if receipt.proves(room, sealed) else "CHANGED since it was made"
    digest = sealed.files[sealed.kind.value][:12]
    return (f"{room.name}/{sealed.kind.value}", f"{sealed.seconds:.2f}", digest, state)


def _artifact(path: Path, as_json: bool) -> None:
    sealed = receipt.read(path.parent)
    if sealed is None or path.name not in sealed.files:
        raise BadInput(f"{path} is no artifact of a run: no receipt beside it names it", "give a file that export made")
    if as_json:
        screen.document(sealed)
        return
    rows = [("made by", sealed.made_by), ("from", ", ".join(sealed.parents) or "the definition")]
    rows += [("SHA-256", sealed.files[path.name]), ("state", _row(path.parent, sealed)[-1])]
    rows += [(name, version) for name, version in sealed.versions.items()]
    rows += [(name, str(value)) for name, value in sealed.notes.items()]
    screen.table(screen.people(as_json=False), str(path), ("", ""), rows)
