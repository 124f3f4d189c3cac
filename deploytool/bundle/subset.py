"""For which kind of device a bundle was fetched: the engines for others were left behind, and nothing else may be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from deploytool import serde
from deploytool.bundle.manifest import SUBSET_FILE, Manifest
from deploytool.errors import BadInput, Refused
from deploytool.host import files, machine
from deploytool.targets import TARGETS, THIS

_LONGEST = 4 << 10  # bytes
_NO_GPU = "none"
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # nobody has signed this file, and it is shown on a terminal


@dataclass(frozen=True)
class Subset:
    """A kind of device: engines for other compute capabilities than its own may be missing from the folder."""

    target: str
    capability: str


def parse(name: str | None) -> Subset | None:
    """What `--target` asks for: a target of the table, or the GPU of this machine. Raises BadInput for another name."""
    if name is None:
        return None
    if name == THIS:
        gpus = machine.gpus()
        return Subset(THIS, gpus[0].capability if gpus else _NO_GPU)
    if name not in TARGETS:
        raise BadInput(f"there is no target {name!r}", f"choose from {', '.join((THIS, *TARGETS))}")
    return Subset(name, TARGETS[name].capability)


def omitted_engines(manifest: Manifest, only: Subset | None) -> frozenset[str]:
    """The paths of the engines that such a device cannot use, as the manifest has it; none for a whole bundle."""
    engines = manifest.engines if only is not None else ()
    return frozenset(engine.file.path for engine in engines if only and only.capability not in engine.capabilities)


def read(folder: Path) -> Subset | None:
    """For which kind of device a folder was fetched; None where it is a whole bundle. Raises Refused for nonsense."""
    if not (folder / SUBSET_FILE).exists():
        return None
    raw = files.read(folder / SUBSET_FILE, _LONGEST)
    try:
        found = serde.decode(Subset, serde.loads(raw))
        right = serde.text(found).encode() == raw and all(map(_WORD.fullmatch, (found.target, found.capability)))
    except serde.Malformed:
        right = False
    if not right:
        raise Refused(f"{folder / SUBSET_FILE} does not say for which device", files.AGAIN)
    return found
