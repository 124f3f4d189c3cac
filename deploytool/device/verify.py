"""Verifies a bundle: its integrity first, without loading any model, then its outputs on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from deploytool import runtimes
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
from deploytool.device.candidates import Candidate, Tier, candidates, omission_reason
from deploytool.device.environment import Environment, mismatch
from deploytool.device.probe import Int8Speed, Prober, ProbeResult, Race, Racer
from deploytool.errors import CorruptBundle, MissingBackend, Refused
from deploytool.host import machine
from deploytool.spec import ADDED
from deploytool.transfer.pull import Signed

HELD = "held"  # begins the status of a check that passed


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
    """One integrity check and its result."""

    name: str
    status: str


@dataclass(frozen=True)
class Integrity:
    """A bundle whose files all have the digests that its manifest states."""

    folder: Path
    manifest: Manifest
    digest: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Verification:
    """The result of a verification on one machine; `tier` is the one that serves, None if none works.

    `race` compares two runtimes that both work on the CPU, None if there was nothing to compare; `int8_speeds` compare
    INT8 with FP32 in each.
    """

    bundle: str
    name: str
    digest: str
    content_digest: str
    sequence: int
    machine: str
    steps: tuple[Step, ...]
    tried: tuple[ProbeResult, ...]
    tier: Tier | None
    race: Race | None = field(default=None, metadata=ADDED)
    int8_speeds: tuple[Int8Speed, ...] = field(default=(), metadata=ADDED)


def check_integrity(folder: Path, options: VerifyOptions = VerifyOptions()) -> Integrity:
    """Checks a bundle in the order of `CHECKS_BEFORE_PARSING` and `CHECKS_AFTER_PARSING`.

    Raises Refused at the first check that fails, before any file but the manifest is parsed.
    """
    raw = manifest_bytes(folder)
    digest = manifest_digest_of(raw)
    statuses = [(name, check(folder, digest, options)) for name, check in CHECKS_BEFORE_PARSING]
    before = tuple(Step(name, status) for name, status in statuses if status)
    manifest = parse_manifest(raw, folder)  # the same bytes whose digest and signature were checked
    after = tuple(Step(name, check(folder, manifest, digest, options)) for name, check in CHECKS_AFTER_PARSING)
    if manifest_digest(folder) != digest:
        raise Refused(f"{folder} changed while it was checked", "check it where no other process writes")
    return Integrity(folder, manifest, digest, before + after)


def _check_digest(folder: Path, digest: str, options: VerifyOptions) -> str | None:
    if options.digest is None:
        return None
    if digest != options.digest:
        remedy = "check the digest, or get the bundle again"
        raise Refused(f"{folder} is another bundle: its digest is {digest}", remedy)
    return HELD


def _check_signature(folder: Path, digest: str, options: VerifyOptions) -> str | None:
    if options.key is None:
        return None
    return f"{HELD}: {_signature_module().check(folder, digest, options.key)} files, by {options.key}"


def check_key(key: Path) -> None:
    """Raises BadInput if a file is no public key (PEM) that a signature can be checked with."""
    _signature_module().public_key(key)


def signature_checker(key: Path | None) -> Signed | None:
    """The function that checks the signature of a bundle while it is fetched; None if no key is required."""
    if key is None:
        return None
    signature = _signature_module()

    def signed_files(unlisted_files: Mapping[str, bytes], source: str) -> Mapping[str, str]:
        digest = hashlib.sha256(unlisted_files[MANIFEST_FILE]).hexdigest()
        signed: Mapping[str, str] = signature.signed_files(unlisted_files.get(SIGNATURE_FILE), digest, key, source)
        return signed

    return signed_files


def _signature_module() -> ModuleType:
    """The module that checks signatures, imported on demand: it needs cryptography, which few devices have."""
    try:
        from deploytool.bundle import signature
    except ModuleNotFoundError as error:
        problem = f"a signature is required, and {(error.name or '').partition('.')[0]} is not installed"
        raise MissingBackend(problem, "pip install 'deploytool[verify]'") from error
    return signature


def _check_digests(folder: Path, manifest: Manifest, digest: str, options: VerifyOptions) -> str:
    kind = subset.read(folder)
    try:
        check_files(folder, manifest, subset.omitted_engines(manifest, kind))
    except Refused as error:
        raise CorruptBundle(str(error), error.remedy) from error
    listed = all_files(manifest)
    omitted = sum(not (folder / file.path).exists() for file in listed)
    remark = f"; {omitted} engines for other devices than {kind.target} left out" if kind and omitted else ""
    return f"{HELD}: {len(listed) - omitted} files{remark}"


def _check_sequence(folder: Path, manifest: Manifest, digest: str, options: VerifyOptions) -> str:
    if options.sequence is not None and manifest.sequence < options.sequence:
        problem = f"{folder} has sequence {manifest.sequence}, and {options.sequence} was installed here"
        raise Refused(problem, "pack it with a higher --sequence, or use `deploytool rollback`")
    if digest in options.refused:
        problem = f"{folder} was given up here: {options.refused[digest]}"
        remedy = f"pack a bundle with a higher --sequence, or: deploytool pardon {digest[:12]} --root DIR"
        raise Refused(problem, remedy)
    minimum = "nothing is installed to compare with" if options.sequence is None else f"at least {options.sequence}"
    return f"{HELD}: {manifest.sequence}, {minimum}"


RawCheck = Callable[[Path, str, VerifyOptions], str | None]  # None if the options demand no such check
ManifestCheck = Callable[[Path, Manifest, str, VerifyOptions], str]
CHECKS_BEFORE_PARSING: tuple[tuple[str, RawCheck], ...] = (("digest", _check_digest), ("signature", _check_signature))
CHECKS_AFTER_PARSING: tuple[tuple[str, ManifestCheck], ...] = (
    ("digests", _check_digests),
    ("sequence", _check_sequence),
)


def target_step(folder: Path, manifest: Manifest, environment: Environment) -> Step:
    """Whether an engine of the bundle can run on this machine; no failure if not, since other candidates remain."""
    reasons = [
        (engine, mismatch(engine, environment) or omission_reason(folder, engine)) for engine in manifest.engines
    ]
    usable = [engine for engine, reason in reasons if reason is None]
    if usable:
        return Step("target", f"{HELD}: {usable[0].flavour} {usable[0].version} for {environment.capability}")
    return Step("target", f"no engine for this machine: {reasons[0][1] if reasons else 'the bundle contains none'}")


def runtime_step(manifest: Manifest, environment: Environment) -> Step:
    """Whether the ONNX Runtime of this machine reads the graphs; no failure if not, since an engine may remain."""
    return Step("runtime", runtime_status(manifest, environment))


def runtime_status(manifest: Manifest, environment: Environment) -> str:
    """What the manifest says of ONNX Runtime, compared with the version here, in one line."""
    version = environment.onnxruntime
    if not version:
        return "ONNX Runtime is not installed"
    for graph in manifest.graphs:
        if why := runtimes.refusal(runtimes.ORT, version, graph.ir_version, graph.opset):
            return why
    newest = max(manifest.graphs, key=lambda graph: (graph.ir_version, graph.opset))
    reads = f"ONNX Runtime {version} reads IR version {newest.ir_version} and opset {newest.opset}"
    if not manifest.tried:
        return f"{HELD}: {reads}; none was tried"
    older = (runtimes.release(version) or (0, 0)) < (runtimes.release(manifest.tried) or (0, 0))
    return f"{HELD}: {reads}; {'the oldest that was tried is ' if older else 'tried with '}{manifest.tried}"


def run_candidates(checked: Integrity, environment: Environment, built: Path | None = None) -> tuple[Candidate, ...]:
    """Every candidate for running a bundle here; `built` is the folder of engines built on this machine."""
    engines = built or build.engine_path(checked.folder)
    built_here = build.built_candidates(checked.folder, checked.manifest, environment, engines)
    return candidates(checked.folder, checked.manifest, environment, *built_here)


def verify(
    checked: Integrity,
    environment: Environment,
    prober: Prober,
    built: Path | None = None,
    *,
    every: bool = False,
    racer: Racer | None = None,
) -> Verification:
    """Runs the golden cases on each candidate down to the first that works, or with `every` on all of them.

    With a `racer`, the faster of two runtimes that both work on the CPU serves; with `every`, INT8 and FP32 are also
    timed in turn.
    """
    found = run_candidates(checked, environment, built)
    probing = probe.probe_in_order(found, prober, every=every, racer=racer)
    results = probing.results
    working = probe.first_passed(results)
    return Verification(
        bundle=str(checked.folder),
        name=checked.manifest.name,
        digest=checked.digest,
        content_digest=content_digest(checked.manifest),
        sequence=checked.manifest.sequence,
        machine=", ".join(name for name in (machine.cpu(), environment.gpu) if name),
        steps=(
            *checked.steps,
            target_step(checked.folder, checked.manifest, environment),
            runtime_step(checked.manifest, environment),
        ),
        tried=results,
        tier=working.tier if working else None,
        race=probing.race,
        int8_speeds=probe.int8_speeds(found, results, racer) if racer else (),
    )
