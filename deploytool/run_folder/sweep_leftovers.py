"""Finds leftovers in the folder of a sweep: in its cells, in the stages that they share, and half-fetched runs.

Shared stages are leftovers once every cell is finished and none has their files, as after a change of the options.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from deploytool.errors import BadInput
from deploytool.host import locks
from deploytool.results import receipt as receipts
from deploytool.results import sweep as sweeps
from deploytool.run_folder import leftovers
from deploytool.run_folder.leftovers import Leftover
from deploytool.spec import Stage

_INCOMING = "incoming-*"
_HALF = "an interrupted sweep was fetching it from a worker"
_UNUSED = "stages that cells of this sweep shared before; none of them has these files now"


def is_sweep(folder: Path) -> bool:
    """Whether a sweep was begun in a folder."""
    return (folder / sweeps.OWN / sweeps.LOCK).is_file()


def find(folder: Path) -> list[Leftover]:
    """The leftovers of a sweep; while it runs, only those of killed processes."""
    folder = Path(os.path.realpath(folder))
    shared = folder / sweeps.SHARED
    items = [*leftovers.find(folder), *leftovers.find(shared)]
    lock = folder / sweeps.OWN / sweeps.LOCK
    if locks.is_held(lock):
        return items
    for path in sorted((folder / sweeps.OWN).glob(_INCOMING)):
        if leftovers.is_idle(path, lock):
            items += leftovers.owned_leftover(path, _HALF)
    for path in _unused(folder):
        if leftovers.is_idle(path, lock):
            items += leftovers.owned_leftover(path, _UNUSED)
    return items


def _unused(folder: Path) -> Iterator[Path]:
    """The shared stages whose files no cell has; none as long as a cell is not finished, which may need them."""
    try:
        sweep = sweeps.read(folder)
    except BadInput:
        return
    if not all(result.finished for result in sweep.cells):
        return
    used = {key for cell in leftovers.folders(folder) if cell.name != sweeps.SHARED for key in _keys(cell)}
    for group in leftovers.folders(folder / sweeps.SHARED):
        if used.isdisjoint(_keys(group)):
            yield group


def _keys(run: Path) -> set[str]:
    """The keys of the stages in the folder of a run."""
    found = (receipts.read(run / stage) for stage in Stage)
    return {receipt.key for receipt in found if receipt is not None}
