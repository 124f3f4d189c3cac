"""What lies under an install root and nobody needs: what killed commands left, and bundles that nothing turns to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deploytool.device import build, install
from deploytool.device.install import Pointer
from deploytool.errors import BadInput
from deploytool.host import locks
from deploytool.run_folder import leftovers
from deploytool.run_folder.leftovers import Leftover

_INCOMING, _INSTALLING = ".incoming", ".installing-*"  # what the receiver works in, and what it installs
_KEY = ".key-*.pem"  # the keys that it was sent


def is_root(folder: Path) -> bool:
    """Whether bundles are installed in a folder, or were to be."""
    return (folder / "bundles").is_dir() and ((folder / ".lock").is_file() or install.is_pointed(folder))


def find_leftovers(root: Path) -> list[Leftover]:
    """What can go; no bundle while an install is under way. Raises BadInput for a folder that is no install root."""
    received = root / "received"
    if not is_root(root) and not received.is_dir():
        raise BadInput(f"{root} is no install root", "name the folder that `install --root` or `ship` was given")
    left = list(leftovers.describe(leftovers.entries(root)))
    if is_root(root) and not locks.is_held(root / ".lock"):
        left += _bundles(root)
    return [*left, *_received(received)]


def _bundles(root: Path) -> Iterator[Leftover]:
    pointer = install.pointer(root)
    for place in leftovers.folders(root / "bundles"):
        digest = place.name.partition(".")[0]
        if _is_turned_to(pointer, digest):
            yield from leftovers.describe(leftovers.entries(build.engine_path(place)))
        elif leftovers.is_idle(place, place):
            yield from leftovers.of(place, "neither the current bundle nor the one before")
    for counted in leftovers.folders(root / "starts"):
        known = _is_turned_to(pointer, counted.name) or (pointer and counted.name in pointer.refused)
        if not known and leftovers.is_idle(counted, counted):
            yield from leftovers.of(counted, "the starts of a bundle that is no longer here")


def _is_turned_to(pointer: Pointer | None, digest: str) -> bool:
    return pointer is not None and digest in (pointer.current, pointer.previous)


def _received(folder: Path) -> Iterator[Leftover]:
    stage = folder / _INCOMING
    if stage.is_dir() and leftovers.is_idle(stage, stage / leftovers.LOCK):
        yield from leftovers.of(stage, "a ship that was cut left it for the next to go on from")
    for place in folder.glob(_INSTALLING):
        if leftovers.is_idle(place, place):
            yield from leftovers.of(place, "what an install that was killed was given")
    for key in folder.glob(_KEY):
        if leftovers.is_idle(key, key):
            yield from leftovers.of(key, "the key of an install that was killed")
