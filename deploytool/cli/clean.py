"""`deploytool clean`: lists the leftovers of killed commands with size and reason, and removes them with --yes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput
from deploytool.run_folder import leftovers, sweep_leftovers
from deploytool.run_folder.leftovers import Leftover

_EXPIRED = "it marks a deleted run as this user's own; without it, a copy of that run needs --trust-code"


def clean(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER...", help="Folders to search.", show_default="the working folder and artifacts"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the leftovers instead of only listing them.")] = False,
) -> Outcome:
    """Lists what killed commands left in folders of runs, sweeps, bundles and installs, and removes it with --yes.

    Files of other users and of running processes are kept; where the process is unknown, files of the last hour too.
    Example: deploytool clean artifacts --yes
    """
    items = _find(folders or [folder for folder in (Path(), Path("artifacts")) if folder.is_dir()])
    kept = leftovers.remove(items) if yes else []
    lines = list(leftovers.lines(items, gone=yes))
    for line in lines:
        console.say(console.stdout_console(), line)
    failure = BadInput(f"{kept[0].path} could not be removed", "check its permissions") if kept else None
    return Outcome({"found": items, "gone": yes, "kept": kept}, lines[-1], failure)


def _find(folders: list[Path]) -> list[Leftover]:
    """The leftovers in these folders, without duplicates, and the notes of this user about deleted runs."""
    from deploytool.device import clean as device_clean  # imports numpy
    from deploytool.pipeline import trust

    items: dict[str, Leftover] = {}
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"there is no folder {folder}", "check the path")
        roots = [root for root in (folder, *leftovers.folders(folder)) if device_clean.is_install_root(root)]
        in_roots = [item for root in roots for item in device_clean.find_leftovers(root)]
        sweeps = [root for root in (folder, *leftovers.folders(folder)) if sweep_leftovers.is_sweep(root)]
        in_sweeps = [item for root in sweeps for item in sweep_leftovers.find(root)]
        items |= {item.path: item for item in (*leftovers.find(folder), *in_roots, *in_sweeps)}
    notes = [item for note in trust.expired() for item in leftovers.owned_leftover(note, _EXPIRED)]
    return [*items.values(), *notes]
