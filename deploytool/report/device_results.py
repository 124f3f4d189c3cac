"""What devices brought home: the results of `verify` or `bench` there, kept beside the run whose bundle they ran."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from deploytool.bundle.manifest import MANIFEST_FILE, manifest_digest
from deploytool.device.verify import Verification
from deploytool.diff import sides
from deploytool.errors import BadInput
from deploytool.host import files
from deploytool.results.artifact import Kind
from deploytool.spec import Stage

FOLDER = "devices"


def keep(home: Path, document: Path) -> Path:
    """Keeps a result with the run; raises BadInput if it is none, or of a bundle that does not lie in the run."""
    found = sides.brought(document)
    if found.digest != _digest(home):
        remedy = f"name the run that it was packed from; the one here has digest {(_digest(home) or 'none')[:12]}"
        raise BadInput(f"{document} is about another bundle (digest {found.digest[:12]})", remedy)
    path = home / FOLDER / f"{re.sub(r'[^A-Za-z0-9]+', '_', found.machine).strip('_') or 'device'}.json"
    path.parent.mkdir(exist_ok=True)
    files.publish(path, document.read_bytes())
    return path


def kept(home: Path) -> tuple[Path, ...]:
    """The files of all results that were kept."""
    return tuple(sorted((home / FOLDER).glob("*.json")))


def read(home: Path) -> tuple[Verification, ...]:
    """What was kept, as far as it is about the bundle that lies in the run now."""
    digest = _digest(home)
    return tuple(found for path in kept(home) if (found := _readable(path)) and found.digest == digest)


def _readable(path: Path) -> Verification | None:
    """A result that was kept; None for one of another version of deploytool."""
    try:
        return sides.brought(path)
    except BadInput:
        return None


def rows(results: tuple[Verification, ...]) -> Iterator[tuple[str, ...]]:
    """A row for each way on each machine: machine, way, largest error, top-1, median latency, and what became of it."""
    for found in results:
        for each in found.tried:
            if each.trial is None:
                yield (found.machine, each.tier, "–", "–", "–", each.reason)
                continue
            parity = each.trial.check.parity
            top1 = "–" if parity.top1 is None else f"{parity.top1:.0%}"
            said = (each.reason or str(each.status)) + (", and serves" if each.tier == found.tier else "")
            yield (found.machine, each.tier, f"{parity.max_error:.1e}", top1, f"{each.trial.latency_ms:.2f} ms", said)


def _digest(home: Path) -> str | None:
    packed = (home / Stage.PACK / Kind.BUNDLE.value).parent
    return manifest_digest(packed) if (packed / MANIFEST_FILE).is_file() else None
