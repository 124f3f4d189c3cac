"""Stores the results of `verify` and `bench` from devices beside the run whose bundle they ran, and lists them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from deploytool.bundle.manifest import MANIFEST_FILE, manifest_digest
from deploytool.device import messages, probe
from deploytool.device.verify import Verification
from deploytool.diff import sides
from deploytool.errors import BadInput
from deploytool.host import files
from deploytool.report import sources
from deploytool.results.artifact import Kind
from deploytool.spec import Stage


def store(home: Path, document: Path, name: str = "") -> Path:
    """Copies a device result into the run's folder; raises BadInput if it is malformed or about another bundle.

    The file is named after the device, by default after its machine.
    """
    result = sides.read_verification(document)
    digest = _bundle_digest(home)
    if result.digest != digest:
        remedy = (
            f"name the run that the bundle was packed from; the bundle of this run has digest {(digest or 'none')[:12]}"
        )
        raise BadInput(f"{document} is about another bundle (digest {result.digest[:12]})", remedy)
    path = (
        home / sources.DEVICES / f"{re.sub(r'[^A-Za-z0-9]+', '_', name or result.machine).strip('_') or 'device'}.json"
    )
    path.parent.mkdir(exist_ok=True)
    files.publish(path, document.read_bytes())
    return path


def read(home: Path) -> tuple[Verification, ...]:
    """The stored results that are about the present bundle of the run."""
    digest = _bundle_digest(home)
    results = (_read_or_none(path) for path in sources.of_devices(home))
    return tuple(result for result in results if result and result.digest == digest)


def _read_or_none(path: Path) -> Verification | None:
    """A stored result; None if another version of deploytool wrote it."""
    try:
        return sides.read_verification(path)
    except BadInput:
        return None


def rows(results: tuple[Verification, ...]) -> Iterator[tuple[str, ...]]:
    """One row for each machine and backend: machine, backend, largest error, top-1, median latency, status."""
    for result in results:
        selected = probe.first_passed(result.tried)
        for attempt in result.tried:
            if attempt.trial is None:
                yield (result.machine, attempt.name, "–", "–", "–", attempt.reason)
                continue
            parity = attempt.trial.check.parity
            top1 = "–" if parity.top1 is None else f"{parity.top1:.0%}"
            status = attempt.reason or str(attempt.status)
            if attempt == selected:
                status += ", selected"
            if attempt.int8:
                status += "".join(
                    f"; {messages.int8_text(each)}" for each in result.int8_speeds if each.tier == attempt.tier
                )
            latency = f"{attempt.trial.latency_ms:.2f} ms"
            yield (result.machine, attempt.name, f"{parity.max_error:.1e}", top1, latency, status)


def _bundle_digest(home: Path) -> str | None:
    """The manifest digest of the run's bundle; None if it was not packed."""
    bundle = (home / Stage.PACK / Kind.BUNDLE.value).parent
    return manifest_digest(bundle) if (bundle / MANIFEST_FILE).is_file() else None
