"""Finds leftovers under an install root: files of killed commands, and bundles that the pointer no longer names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deploytool.device import build, install
from deploytool.device.install import Pointer
from deploytool.errors import BadInput
from deploytool.host import locks
from deploytool.run_folder import leftovers
from deploytool.run_folder.leftovers import Leftover

_INCOMING, _INSTALLING = ".incoming", ".installing-*"  # working folders of the ssh receiver and of its installs
_KEY = ".key-*.pem"  # public keys that the ssh receiver was sent


def is_install_root(folder: Path) -> bool:
    """Whether bundles are installed in a folder, or an install was begun there."""
    return (folder / "bundles").is_dir() and ((folder / ".lock").is_file() or install.has_pointer(folder))


def find_leftovers(root: Path) -> list[Leftover]:
    """Everything that can be removed; no bundle while an install runs.

    Raises BadInput for a folder that is not an install root.
    """
    received = root / "received"
    if not is_install_root(root) and not received.is_dir():
        raise BadInput(f"{root} is not an install root", "give the folder that `install --root` or `ship` was given")
    items = list(leftovers.identify(leftovers.entries(root)))
    if is_install_root(root) and not locks.is_held(root / ".lock"):
        items += _bundle_leftovers(root)
    return [*items, *_receiver_leftovers(received)]


def _bundle_leftovers(root: Path) -> Iterator[Leftover]:
    pointer = install.read_pointer(root)
    for bundle in leftovers.folders(root / "bundles"):
        digest = bundle.name.partition(".")[0]
        if _is_in_use(pointer, digest):
            yield from leftovers.identify(leftovers.entries(build.engine_path(bundle)))
        elif leftovers.is_idle(bundle, bundle):
            yield from leftovers.owned_leftover(bundle, "neither the current bundle nor the previous one")
    for records in leftovers.folders(root / "starts"):
        is_known = _is_in_use(pointer, records.name) or (pointer and records.name in pointer.refused)
        if not is_known and leftovers.is_idle(records, records):
            yield from leftovers.owned_leftover(records, "failed starts of a bundle that is no longer installed")


def _is_in_use(pointer: Pointer | None, digest: str) -> bool:
    return pointer is not None and digest in (pointer.current, pointer.previous)


def _receiver_leftovers(folder: Path) -> Iterator[Leftover]:
    incoming = folder / _INCOMING
    if incoming.is_dir() and leftovers.is_idle(incoming, incoming / leftovers.LOCK):
        yield from leftovers.owned_leftover(incoming, "an interrupted ship left it; the next ship continues from it")
    for installing in folder.glob(_INSTALLING):
        if leftovers.is_idle(installing, installing):
            yield from leftovers.owned_leftover(installing, "input of an install that was killed")
    for key in folder.glob(_KEY):
        if leftovers.is_idle(key, key):
            yield from leftovers.owned_leftover(key, "the key of an install that was killed")
