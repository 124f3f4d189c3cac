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
from deploytool.device.candidates import Candidate, Tier, candidates, left_out
from deploytool.device.environment import Environment, mismatch
from deploytool.device.probe import Prober, ProbeResult
from deploytool.errors import MissingBackend, Refused, Spoiled
from deploytool.host import machine
from deploytool.transfer.pull import Signed

HELD = "held"


@dataclass(frozen=True)
class VerifyOptions:
    """What the integrity of a bundle is checked against.

    `sequence` is the lowest that is accepted, `refused` gives digests that are not accepted, each with the reason,
    `digest` is the only one accepted if it is given, and `key` is a file with the public key (PEM) of the signer.
    """

    sequence: int | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Step:
    """One check of the papers and what it showed."""

    name: str
    status: str


@dataclass(frozen=True)
class Integrity:
    """A bundle whose every byte is the one its manifest names."""

    folder: Path
    manifest: Manifest
    digest: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Verification:
    """What a verification showed, and on which machine; `tier` is the one that serves, None where none does."""

    bundle: str
    name: str
    digest: str
    content_digest: str
    sequence: int
    machine: str
    steps: tuple[Step, ...]
    tried: tuple[ProbeResult, ...]
    tier: Tier | None


def check_integrity(folder: Path, asked: VerifyOptions = VerifyOptions()) -> Integrity:
    """Checks a bundle in the order of `UNREAD` and `CHECKS`.

    Raises Refused at the first that fails, before anything but the manifest is read.
    """
    raw = manifest_bytes(folder)
    digest = manifest_digest_of(raw)
    first = tuple(Step(name, status) for name, check in UNREAD if (status := check(folder, digest, asked)))
    manifest = parse_manifest(raw, folder)  # the very bytes that were sealed and signed
    then = tuple(Step(name, check(folder, manifest, digest, asked)) for name, check in CHECKS)
    if manifest_digest(folder) != digest:
        raise Refused(f"{folder} changed while it was checked", "check it where nobody else writes")
    return Integrity(folder, manifest, digest, first + then)


def _digest(folder: Path, digest: str, asked: VerifyOptions) -> str | None:
    if asked.digest is None:
        return None
    if digest != asked.digest:
        raise Refused(
            f"{folder} is another bundle: its digest is {digest}", "check the digest, or get the bundle again"
        )
    return HELD


def _signature(folder: Path, digest: str, asked: VerifyOptions) -> str | None:
    if asked.key is None:
        return None
    return f"{HELD}: {_signatures().check(folder, digest, asked.key)} files, by {asked.key}"


def signed(key: Path | None) -> Signed | None:
    """What holds a bundle that is still on its way against its signature, if a key must have signed it."""
    if key is None:
        return None
    signature = _signatures()

    def names(beside: Mapping[str, bytes], where: str) -> Mapping[str, str]:
        digest = hashlib.sha256(beside[MANIFEST_FILE]).hexdigest()
        found: Mapping[str, str] = signature.named(beside.get(SIGNATURE_FILE), digest, key, where)
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


def _digests(folder: Path, manifest: Manifest, digest: str, asked: VerifyOptions) -> str:
    kind = subset.read(folder)
    try:
        check_files(folder, manifest, subset.omitted_engines(manifest, kind))
    except Refused as error:
        raise Spoiled(str(error), error.remedy) from error
    named = all_files(manifest)
    left = sum(not (folder / file.path).exists() for file in named)
    what = f"; {left} engines for other devices than {kind.target} left out" if kind and left else ""
    return f"{HELD}: {len(named) - left} files{what}"


def _sequence(folder: Path, manifest: Manifest, digest: str, asked: VerifyOptions) -> str:
    if asked.sequence is not None and manifest.sequence < asked.sequence:
        problem = f"{folder} has sequence {manifest.sequence}, and {asked.sequence} was here already"
        raise Refused(problem, "pack it with a higher --sequence, or use `deploytool rollback`")
    if digest in asked.refused:
        problem = f"{folder} was given up here: {asked.refused[digest]}"
        raise Refused(
            problem, f"pack a bundle with a higher --sequence, or: deploytool pardon {digest[:12]} --root DIR"
        )
    known = "nothing is installed to compare with" if asked.sequence is None else f"at least {asked.sequence}"
    return f"{HELD}: {manifest.sequence}, {known}"


Unread = Callable[[Path, str, VerifyOptions], str | None]  # None where nothing was asked
Check = Callable[[Path, Manifest, str, VerifyOptions], str]
UNREAD: tuple[tuple[str, Unread], ...] = (
    ("digest", _digest),
    ("signature", _signature),
)  # before the manifest is parsed
CHECKS: tuple[tuple[str, Check], ...] = (("digests", _digests), ("sequence", _sequence))


def target(folder: Path, manifest: Manifest, found: Environment) -> Step:
    """Whether an engine of the bundle is meant for this machine; none is no fault, there are other ways."""
    why = [(engine, mismatch(engine, found) or left_out(folder, engine)) for engine in manifest.engines]
    fits = [engine for engine, reason in why if reason is None]
    if fits:
        return Step("target", f"{HELD}: {fits[0].flavour} {fits[0].version} for {found.capability}")
    return Step("target", f"no engine for this machine: {why[0][1] if why else 'the bundle holds none'}")


def run_candidates(checked: Integrity, found: Environment, built: Path | None = None) -> tuple[Candidate, ...]:
    """Every way to run a bundle here; `built` is where engines made on this machine are kept."""
    kept = build.read_record(checked.folder, checked.manifest, found, built or build.engine_path(checked.folder))
    return candidates(checked.folder, checked.manifest, found, kept)


def verify(
    checked: Integrity, found: Environment, prober: Prober, built: Path | None = None, *, every: bool = False
) -> Verification:
    """Runs the golden cases down to the first way that works here, or with `every` all of them."""
    tried = probe.probe_in_order(run_candidates(checked, found, built), prober, every=every)
    serves = probe.first_passed(tried)
    return Verification(
        bundle=str(checked.folder),
        name=checked.manifest.name,
        digest=checked.digest,
        content_digest=content_digest(checked.manifest),
        sequence=checked.manifest.sequence,
        machine=", ".join(name for name in (machine.cpu(), found.gpu) if name),
        steps=(*checked.steps, target(checked.folder, checked.manifest, found)),
        tried=tried,
        tier=serves.tier if serves else None,
    )
