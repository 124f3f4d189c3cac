"""The commands of the device: each returns its output, and the command line prints it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from deploytool.builder_settings import BuilderSettings
from deploytool.bundle import subset
from deploytool.bundle.manifest import MANIFEST_FILE, Manifest, read_manifest
from deploytool.device import build as device_build
from deploytool.device import clean as device_clean
from deploytool.device import findings, messages, probe
from deploytool.device import inputs as device_inputs
from deploytool.device import install as device_install
from deploytool.device import state as device_state
from deploytool.device import verify as device_verify
from deploytool.device.build import Record
from deploytool.device.candidates import Tier
from deploytool.device.environment import detect
from deploytool.device.findings import Areas, Embedding, Guess, Objects, TokenSequence
from deploytool.device.install import Pointer
from deploytool.device.output import CommandOutput, Say
from deploytool.device.probe import Limits, Prober, Racer
from deploytool.device.verify import Integrity, Verification, VerifyOptions
from deploytool.device.worker import Request
from deploytool.doctor import diagnosis as doctor_diagnosis
from deploytool.doctor import messages as doctor_messages
from deploytool.errors import BadInput, DeployError, TooSlow
from deploytool.run_folder import leftovers
from deploytool.run_folder.leftovers import Leftover
from deploytool.spec import ADDED, Precision
from deploytool.transfer import addresses, auth, sources
from deploytool.transfer import pull as transfer_pull

_RACE = 0.5  # seconds of timing two runtimes in turn
_QUICK = 0.3  # seconds of timing in commands that do not measure speed
_SECONDS_PER_DRAWING, _MAX_DRAWING_BYTES = 30.0, 1 << 30


@dataclass(frozen=True)
class RunResult:
    """The output of `run`: the tier used, and what was found in each image, by the task of the model."""

    tier: Tier
    guesses: tuple[Guess, ...] = ()
    objects: tuple[Objects, ...] = ()
    areas: tuple[Areas, ...] = ()
    sequences: tuple[TokenSequence, ...] = ()
    embeddings: tuple[Embedding, ...] = ()


@dataclass(frozen=True)
class InstallResult:
    """The output of `install`: the pointer afterwards, and the verification of the installed bundle."""

    pointer: Pointer
    verified: Verification


@dataclass(frozen=True)
class BuildResult:
    """The output of `build`: the FP16 engine, and those in 8 bits if the bundle has graphs for them that hold here."""

    engine: Record
    int8: Record | None
    fp8: Record | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class CleanResult:
    """The output of `clean`: the leftovers, those that could not be removed, and whether they were to be removed."""

    found: Sequence[Leftover]
    kept: Sequence[Leftover]
    gone: bool


def verify(
    folder: Path,
    *,
    root: Path | None = None,
    digest: str | None = None,
    key: Path | None = None,
    require: str | None = None,
    build: bool = False,
    say: Say,
) -> CommandOutput:
    """Checks integrity, target and golden cases; with `root`, also the sequence against the bundle installed there.

    `key`, here and below, is the file of the public key that must have signed the bundle, if one must have.
    """
    checked = device_verify.check_integrity(folder, device_install.verify_options(root, digest, key))
    return _verify_outputs(checked, _QUICK, require, build=build, every=False, say=say)


def bench(
    folder: Path,
    *,
    seconds: float,
    max_latency: float | None = None,
    key: Path | None = None,
    require: str | None = None,
    build: bool = False,
    say: Say,
) -> CommandOutput:
    """Verifies a bundle and times every candidate that works for `seconds`, each in a process of its own.

    The output has a failure if the one that serves takes more than `max_latency` milliseconds for a batch.
    """
    checked = device_verify.check_integrity(folder, VerifyOptions(key=key))
    output = _verify_outputs(checked, seconds, require, build=build, every=True, say=say)
    return replace(output, failure=output.failure or _too_slow(output.document, max_latency))


def _too_slow(verification: object, max_latency: float | None) -> TooSlow | None:
    """The error if the backend that serves takes longer than is allowed for a batch; None if it does not."""
    if max_latency is None or not isinstance(verification, Verification):
        return None
    serving = probe.first_passed(verification.tried)
    if serving is None or serving.trial is None or serving.trial.latency_ms <= max_latency:
        return None
    took = f"{serving.trial.latency_ms:.4g} ms at batch {serving.trial.batch}"
    return TooSlow(
        f"{serving.tier} takes {took}, and {max_latency:g} ms are allowed", "see which backends were skipped"
    )


def _verify_outputs(
    checked: Integrity, seconds: float, require: str | None, *, build: bool, every: bool, say: Say
) -> CommandOutput:
    if build:
        _try_build(checked, say)
    verification = device_verify.verify(
        checked, detect(), _prober(checked, seconds), every=every, racer=_racer(checked, seconds)
    )
    failure = probe.shortfall(verification.tried, require)
    return CommandOutput(tuple(messages.verification_lines(verification, every=every)), verification, failure)


def build(
    folder: Path,
    *,
    key: Path | None = None,
    workspace: int | None = None,
    builder_memory: int | None = None,
    optimization_level: int | None = None,
    say: Say,
) -> CommandOutput:
    """Builds an engine for this machine from the bundle's graph, checks it, and keeps it beside the bundle."""
    checked = device_verify.check_integrity(folder, VerifyOptions(key=key))
    built = device_build.engine_path(folder)
    settings = BuilderSettings(workspace, builder_memory, optimization_level)
    record = device_build.build(
        folder, checked.manifest, detect(), built, _prober(checked, _QUICK), _progress_watcher(say), settings
    )
    narrow = _build_narrow(checked, record, say)
    lines = [line for each in (record, *narrow.values()) for line in messages.build_lines(each, built)]
    return CommandOutput(tuple(lines), BuildResult(record, narrow.get(Precision.INT8), narrow.get(Precision.FP8)))


def _build_narrow(checked: Integrity, half: Record, say: Say) -> dict[Precision, Record]:
    """The engines in 8 bits beside the FP16 engine `half`; a failure is said only, since that one runs."""
    built, quick, racer = device_build.engine_path(checked.folder), _prober(checked, _QUICK), _racer(checked, _QUICK)
    watch, here, records = _progress_watcher(say), detect(), dict[Precision, Record]()
    for precision in device_build.in_eight_bits(checked.manifest, here):
        with _saying(precision, say):
            records[precision] = device_build.build_narrow(
                checked.folder, checked.manifest, here, built, half, quick, racer, watch, precision
            )
    return records


@contextmanager
def _saying(precision: Precision, say: Say) -> Iterator[None]:
    """Says why an engine was not built, and goes on."""
    try:
        yield
    except DeployError as error:
        say(f"no {precision.upper()} engine was built: {error}")


def _try_build(checked: Integrity, say: Say) -> None:
    """Builds an engine where that is possible; a failure is only reported, since other candidates remain."""
    try:
        built = device_build.engine_path(checked.folder)
        watch = _progress_watcher(say)
        half = device_build.build(checked.folder, checked.manifest, detect(), built, _prober(checked, _QUICK), watch)
        _build_narrow(checked, half, say)
    except DeployError as error:
        say(f"no engine was built: {error}")


def run(
    folder: Path,
    images: Sequence[Path],
    *,
    top: int,
    min_score: float = 0.0,
    draw: Path | None = None,
    key: Path | None = None,
    require: str | None = None,
) -> CommandOutput:
    """Runs the model on images with the first candidate that works here.

    For a model of several image inputs, each of `images` is `INPUT=PATH`; an input that is named again belongs to the
    next item.
    `draw` is a folder for pictures with the boxes or areas that were found, those with a score of at least `min_score`.
    """
    bundle, digest = _bundle_folder(folder)
    checked = device_verify.check_integrity(bundle, VerifyOptions(digest=digest, key=key))
    pictures = device_inputs.pictures(images, checked.manifest)
    missing = next((image for image in pictures if not image.is_file()), None)
    if missing:
        raise BadInput(f"there is no file {missing}", "check the path")
    if draw:
        _prepare_drawings(draw, checked.manifest)
    candidates = device_verify.run_candidates(checked, detect())
    results = probe.probe_in_order(candidates, _prober(checked, 0.0, at_corners=False)).results
    failure = probe.shortfall(results, require)
    if failure:
        raise failure
    candidate = probe.serving(candidates, results)
    paths = tuple(str(image.absolute()) for image in pictures)
    out = str(draw.absolute()) if draw else ""
    request = Request(
        *("answer", str(bundle), checked.manifest, candidate, ""), pictures=paths, top=top, min_score=min_score, out=out
    )
    found = probe.run_worker(request, limits=_drawing_limits(len(paths)) if draw else Limits()).findings
    result = RunResult(candidate.tier, found.guesses, found.objects, found.areas, found.sequences, found.embeddings)
    return CommandOutput(tuple(messages.run_lines(candidate.name, found)), result)


def _prepare_drawings(folder: Path, manifest: Manifest) -> None:
    """Makes the folder for drawings; raises BadInput if it cannot be made, or if the model finds nothing to draw."""
    if not findings.drawable(manifest.task):
        problem = f"{manifest.name} is not declared to find boxes or areas, which --draw draws"
        raise BadInput(problem, "leave --draw out, or export again with --task detect or --task segment")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot make the folder {folder}: {error.strerror}"
        raise BadInput(problem, "choose another folder with --draw") from error


def _drawing_limits(pictures: int) -> Limits:
    """The limits of a child that also draws: a PNG of the largest picture that is read, and time for each."""
    return Limits(seconds=Limits.seconds + pictures * _SECONDS_PER_DRAWING, max_file_bytes=_MAX_DRAWING_BYTES)


def install(
    folder: Path,
    root: Path,
    *,
    digest: str | None = None,
    key: Path | None = None,
    require: str | None = None,
    build: bool = False,
    say: Say,
) -> CommandOutput:
    """Publishes a bundle under `root`, verifies it there, and makes it the current one."""
    verifications: list[Verification] = []

    def verify_installed(checked: Integrity) -> None:
        if build:
            _try_build(checked, say)
        verifications.append(
            device_verify.verify(checked, detect(), _prober(checked, _QUICK), racer=_racer(checked, _QUICK))
        )
        failure = probe.shortfall(verifications[-1].tried, require)
        if failure:
            raise failure

    pointer = device_install.install(folder, root, verify_installed, digest, key)
    lines = tuple(messages.verification_lines(verifications[-1], every=False))
    result = InstallResult(pointer, verifications[-1])
    return CommandOutput((*lines, *messages.pointer_lines(pointer, root)), result, verdict=len(lines))


def pull(
    address: str,
    out: Path | None,
    *,
    target: str | None = None,
    digest: str | None = None,
    key: Path | None = None,
    reuse_from: Sequence[Path] = (),
    plain_http: bool = False,
    ca: Path | None = None,
    timeout: float | None = None,
    logins: Path | None,
    say: Say,
) -> CommandOutput:
    """Fetches a bundle, or what a target needs of it, into a new folder.

    `logins` is docker's config.json, `ca` a file with the certificates of trusted authorities, and `timeout` the limit
    of the whole fetch in seconds.
    """
    location, kind = addresses.parse(address, plain_http=plain_http, ca=ca), subset.parse(target)
    out, signed = out or Path(addresses.bundle_name(location)), device_verify.signature_checker(key)
    with sources.open_source(location, auth.read_config(logins), ca, timeout) as source:
        result = transfer_pull.pull(source, out, kind, digest=digest, signed=signed, reuse_from=reuse_from, say=say)
    return CommandOutput(tuple(messages.pull_lines(result, kind, key)), result, verdict=0)


def status(root: Path | None = None) -> CommandOutput:
    """Says what is installed under a root, and which software, clocks and power mode this machine has."""
    found = device_state.read(root)
    return CommandOutput(tuple(device_state.lines(found, root)), found)


def rollback(root: Path, *, key: Path | None = None) -> CommandOutput:
    """Makes the previous bundle the current one again."""
    pointer = device_install.rollback(root, key)
    return CommandOutput(tuple(messages.pointer_lines(pointer, root)), pointer, verdict=0)


def pardon(digest: str, root: Path) -> CommandOutput:
    """Allows a refused bundle to be installed and started again."""
    pointer = device_install.pardon(root, digest)
    return CommandOutput(tuple(messages.pointer_lines(pointer, root)), pointer, verdict=0)


def clean(root: Path, *, yes: bool) -> CommandOutput:
    """Lists the leftovers under an install root, and removes them with `yes`."""
    items = device_clean.find_leftovers(root)
    kept = leftovers.remove(items) if yes else []
    failure = BadInput(f"{kept[0].path} could not be removed", "check its permissions") if kept else None
    return CommandOutput(tuple(leftovers.lines(items, gone=yes)), CleanResult(items, kept, gone=yes), failure)


def doctor(target: str = "", folder: Path | None = None) -> CommandOutput:
    """Reports what this machine can build, run and verify, and its known problems."""
    manifest = read_manifest(folder) if folder else None
    diagnosis = doctor_diagnosis.examine(target)
    lines = [*doctor_messages.lines(diagnosis), *([bundle_line(manifest)] if manifest else [])]
    return CommandOutput(tuple(lines), diagnosis, diagnosis.failure)


def bundle_line(manifest: Manifest) -> str:
    """Whether the ONNX Runtime of this machine reads the graphs of a bundle."""
    return f"{manifest.name}: {device_verify.runtime_status(manifest, detect())}"


def _bundle_folder(folder: Path) -> tuple[Path, str | None]:
    """A bundle itself, or the current bundle of an install root with the digest that it must have."""
    pointer = None if (folder / MANIFEST_FILE).exists() else device_install.read_pointer(folder)
    return (device_install.bundle_path(folder, pointer.current), pointer.current) if pointer else (folder, None)


def _prober(checked: Integrity, seconds: float, *, at_corners: bool = True) -> Prober:
    return partial(
        probe.probe, folder=checked.folder, manifest=checked.manifest, seconds=seconds, at_corners=at_corners
    )


def _racer(checked: Integrity, seconds: float) -> Racer:
    return partial(probe.race, folder=checked.folder, manifest=checked.manifest, seconds=max(seconds, _RACE))


def _progress_watcher(say: Say) -> Callable[[int, int], None]:
    """A function that reports each new step of a build with the time it may still take."""
    start, reported = time.monotonic(), 0

    def watch(done: int, total: int) -> None:
        nonlocal reported
        if done != reported:
            reported = done
            say(messages.progress_line(done, total, time.monotonic() - start))

    return watch
