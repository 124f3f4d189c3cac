"""Verifies a bundle where it lands: first its papers, with nothing loaded, then what it computes on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from deploytool.bundle import subset
from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    Manifest,
    all_files,
    check_files,
    content_digest,
    manifest_bytes,
    manifest_digest,
    manifest_digest_of,
    parse_manifest,
)
from deploytool.device import build, probe
from deploytool.device.candidates import Tier, Way, left_out, ways
from deploytool.device.environment import Here, misfit
from deploytool.device.probe import Prober, Tried
from deploytool.errors import MissingBackend, Refused, Spoiled
from deploytool.host import machine
from deploytool.transfer.pull import Signed

HELD = "held"


@dataclass(frozen=True)
class Asked:
    """What a bundle's papers are held against.

    That is the lowest sequence still welcome, the seals that are not with the reason, the one seal that will do, if it
    is known, and the public key (a file in PEM) that must have signed it, if one must have.
    """

    sequence: int | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    seal: str | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Step:
    """One check of the papers and what it showed."""

    name: str
    status: str


@dataclass(frozen=True)
class Papers:
    """A bundle whose every byte is the one its manifest names."""

    folder: Path
    manifest: Manifest
    seal: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Verified:
    """What a verification showed, and on which machine; `tier` is the one that serves, None where none does."""

    bundle: str
    name: str
    seal: str
    digest: str
    sequence: int
    machine: str
    steps: tuple[Step, ...]
    tried: tuple[Tried, ...]
    tier: Tier | None


def papers(folder: Path, asked: Asked = Asked()) -> Papers:
    """Checks a bundle in the order of `UNREAD` and `CHECKS`.

    Raises Refused at the first that fails, before anything but the manifest is read.
    """
    raw = manifest_bytes(folder)
    seal = manifest_digest_of(raw)
    first = tuple(Step(name, status) for name, check in UNREAD if (status := check(folder, seal, asked)))
    manifest = parse_manifest(raw, folder)  # the very bytes that were sealed and signed
    then = tuple(Step(name, check(folder, manifest, seal, asked)) for name, check in CHECKS)
    if manifest_digest(folder) != seal:
        raise Refused(f"{folder} changed while it was checked", "check it where nobody else writes")
    return Papers(folder, manifest, seal, first + then)


def _seal(folder: Path, seal: str, asked: Asked) -> str | None:
    if asked.seal is None:
        return None
    if seal != asked.seal:
        raise Refused(f"{folder} is another bundle: its seal is {seal}", "check the seal, or get the bundle again")
    return HELD


def _signature(folder: Path, seal: str, asked: Asked) -> str | None:
    if asked.key is None:
        return None
    return f"{HELD}: {_signatures().check(folder, seal, asked.key)} files, by {asked.key}"


def signed(key: Path | None) -> Signed | None:
    """What holds a bundle that is still on its way against its signature, if a key must have signed it."""
    if key is None:
        return None
    signature = _signatures()

    def names(beside: Mapping[str, bytes], where: str) -> Mapping[str, str]:
        seal = hashlib.sha256(beside[MANIFEST_FILE]).hexdigest()
        found: Mapping[str, str] = signature.named(beside.get(SIGNATURE_FILE), seal, key, where)
        return found

    return names


def _signatures() -> ModuleType:
    """The room that checks signatures; here begins cryptography, which few devices need."""
    try:
        from deploytool.bundle import signature
    except ModuleNotFoundError as error:
        problem = f"a signature is required, and {(error.name or '').partition('.')[0]} is not installed"
        raise MissingBackend(problem, "pip install 'deploytool[verify]'") from error
    return signature


def _digests(folder: Path, manifest: Manifest, seal: str, asked: Asked) -> str:
    kind = subset.read(folder)
    try:
        check_files(folder, manifest, subset.others(manifest, kind))
    except Refused as error:
        raise Spoiled(str(error), error.remedy) from error
    named = all_files(manifest)
    left = sum(not (folder / file.path).exists() for file in named)
    what = f"; {left} engines for other devices than {kind.target} left out" if kind and left else ""
    return f"{HELD}: {len(named) - left} files{what}"


def _sequence(folder: Path, manifest: Manifest, seal: str, asked: Asked) -> str:
    if asked.sequence is not None and manifest.sequence < asked.sequence:
        problem = f"{folder} has sequence {manifest.sequence}, and {asked.sequence} was here already"
        raise Refused(problem, "pack it with a higher --sequence, or use `deploytool rollback`")
    if seal in asked.refused:
        problem = f"{folder} was given up here: {asked.refused[seal]}"
        raise Refused(problem, f"pack a bundle with a higher --sequence, or: deploytool pardon {seal[:12]} --root DIR")
    known = "nothing is installed to compare with" if asked.sequence is None else f"at least {asked.sequence}"
    return f"{HELD}: {manifest.sequence}, {known}"


Unread = Callable[[Path, str, Asked], str | None]  # None where nothing was asked
Check = Callable[[Path, Manifest, str, Asked], str]
UNREAD: tuple[tuple[str, Unread], ...] = (("seal", _seal), ("signature", _signature))  # before the manifest is parsed
CHECKS: tuple[tuple[str, Check], ...] = (("digests", _digests), ("sequence", _sequence))


def target(folder: Path, manifest: Manifest, found: Here) -> Step:
    """Whether an engine of the bundle is meant for this machine; none is no fault, there are other ways."""
    why = [(engine, misfit(engine, found) or left_out(folder, engine)) for engine in manifest.engines]
    fits = [engine for engine, reason in why if reason is None]
    if fits:
        return Step("target", f"{HELD}: {fits[0].flavour} {fits[0].version} for {found.capability}")
    return Step("target", f"no engine for this machine: {why[0][1] if why else 'the bundle holds none'}")


def routes(checked: Papers, found: Here, built: Path | None = None) -> tuple[Way, ...]:
    """Every way to run a bundle here; `built` is where engines made on this machine are kept."""
    kept = build.kept(checked.folder, checked.manifest, found, built or build.place(checked.folder))
    return ways(checked.folder, checked.manifest, found, kept)


def verify(checked: Papers, found: Here, prober: Prober, built: Path | None = None, *, every: bool = False) -> Verified:
    """Runs the golden cases down to the first way that works here, or with `every` all of them."""
    tried = probe.climb(routes(checked, found, built), prober, every=every)
    serves = probe.chosen(tried)
    return Verified(
        bundle=str(checked.folder),
        name=checked.manifest.name,
        seal=checked.seal,
        digest=content_digest(checked.manifest),
        sequence=checked.manifest.sequence,
        machine=", ".join(name for name in (machine.cpu(), found.gpu) if name),
        steps=(*checked.steps, target(checked.folder, checked.manifest, found)),
        tried=tried,
        tier=serves.tier if serves else None,
    )
