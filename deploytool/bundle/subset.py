"""Records for which target a bundle was fetched: engines for other targets may be missing, and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from deploytool import serde
from deploytool.bundle.manifest import SUBSET_FILE, Manifest
from deploytool.errors import BadInput, Refused
from deploytool.host import files, machine
from deploytool.targets import TARGETS, THIS

_MAX_BYTES = 4 << 10
_NO_GPU = "none"
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # the file is not signed, and its words are shown on a terminal


@dataclass(frozen=True)
class Subset:
    """A target: engines for other compute capabilities than this one may be missing from the folder."""

    target: str
    capability: str


def parse(name: str | None) -> Subset | None:
    """The subset for the value of `--target`, a known target or the GPU of this machine.

    Raises BadInput for another name.
    """
    if name is None:
        return None
    if name == THIS:
        gpus = machine.gpus()
        return Subset(THIS, gpus[0].capability if gpus else _NO_GPU)
    if name not in TARGETS:
        raise BadInput(f"there is no target {name!r}", f"choose from {', '.join((THIS, *TARGETS))}")
    return Subset(name, TARGETS[name].capability)


def omitted_engines(manifest: Manifest, kind: Subset | None) -> frozenset[str]:
    """The paths of the engines that the target cannot run, according to the manifest; none for a whole bundle."""
    engines = manifest.engines if kind is not None else ()
    return frozenset(engine.file.path for engine in engines if kind and kind.capability not in engine.capabilities)


def read(folder: Path) -> Subset | None:
    """The target that a folder was fetched for; None for a whole bundle. Raises Refused if the file is malformed."""
    if not (folder / SUBSET_FILE).exists():
        return None
    raw = files.read(folder / SUBSET_FILE, _MAX_BYTES)
    try:
        kind = serde.decode(Subset, serde.loads(raw))
        valid = serde.text(kind).encode() == raw and all(map(_WORD.fullmatch, (kind.target, kind.capability)))
    except serde.Malformed:
        valid = False
    if not valid:
        raise Refused(f"{folder / SUBSET_FILE} does not name a target", files.FETCH_AGAIN)
    return kind
