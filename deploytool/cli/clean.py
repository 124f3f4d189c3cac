"""`deploytool clean`: what killed commands left, shown with its size and why, and removed on demand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput
from deploytool.run_folder import leftovers
from deploytool.run_folder.leftovers import Leftover

_NOTED = "it says that a run is this user's own, and the run is gone: a copy elsewhere would need --trust-code"


def clean(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER...", help="Folders to look in.", show_default="here, and in artifacts"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what was found instead of only showing it.")] = False,
) -> Outcome:
    """Shows what killed commands left in folders of runs, bundles and installs, and removes it with --yes.

    Nothing goes that a living process has, or that is not ours; where nobody can tell, only what is an hour old.
    Example: deploytool clean artifacts --yes
    """
    left = _found(folders or [each for each in (Path(), Path("artifacts")) if each.is_dir()])
    kept = leftovers.remove(left) if yes else []
    lines = list(leftovers.lines(left, gone=yes))
    for line in lines:
        console.say(console.stdout_console(), line)
    failure = BadInput(f"{kept[0].path} could not be removed", "check its rights") if kept else None
    return Outcome({"found": left, "gone": yes, "kept": kept}, lines[-1], failure)


def _found(folders: list[Path]) -> list[Leftover]:
    """What lies in all these folders and the notes of this user, each once."""
    from deploytool.device import clean as roots  # here begins numpy
    from deploytool.pipeline import trust

    found: dict[str, Leftover] = {}
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"there is no folder {folder}", "check the path")
        places = [place for place in (folder, *leftovers.folders(folder)) if roots.is_install_root(place)]
        of_roots = [item for place in places for item in roots.find_leftovers(place)]
        found |= {item.path: item for item in (*leftovers.find(folder), *of_roots)}
    notes = [item for note in trust.expired() for item in leftovers.owned_leftover(note, _NOTED)]
    return [*found.values(), *notes]
