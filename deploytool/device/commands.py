"""The commands of the device: what each does, and what it has to say, for whichever door prints it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deploytool import doctor as doctors
from deploytool.bundle import subset
from deploytool.bundle.manifest import MANIFEST_FILE
from deploytool.device import build as building
from deploytool.device import clean as cleaning
from deploytool.device import install as installing
from deploytool.device import messages, probe
from deploytool.device import verify as verifying
from deploytool.device.candidates import Tier
from deploytool.device.environment import detect
from deploytool.device.install import Pointer
from deploytool.device.output import CommandOutput, Say
from deploytool.device.probe import Prober
from deploytool.device.verify import Integrity, Verification, VerifyOptions
from deploytool.device.worker import Guess, Request
from deploytool.doctor import messages as diagnosis
from deploytool.errors import BadInput, DeployError
from deploytool.run_folder import leftovers
from deploytool.run_folder.leftovers import Leftover
from deploytool.transfer import addresses, sources
from deploytool.transfer import auth as reading
from deploytool.transfer import pull as transfer_pull

_QUICK = 0.3  # seconds of timing where it is not the point


@dataclass(frozen=True)
class RunResult:
    """What `run` showed: the way that served, and what it said of each picture."""

    tier: Tier
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class InstallResult:
    """What `install` showed, and where the pointer stands now."""

    pointer: Pointer
    verified: Verification


@dataclass(frozen=True)
class CleanResult:
    """What lay there and nobody needs, whether it was to go, and what could not be removed."""

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
    """Papers, target, golden cases; with `root`, the sequence against what is installed there.

    `key`, here and below, is the file of the public key that must have signed the bundle, if one must have.
    """
    checked = verifying.check_integrity(folder, installing.wanted_digest(root, digest, key))
    return _verified(checked, _QUICK, require, build=build, every=False, say=say)


def bench(
    folder: Path,
    *,
    seconds: float,
    key: Path | None = None,
    require: str | None = None,
    build: bool = False,
    say: Say,
) -> CommandOutput:
    """The same with every way that runs here, each timed for `seconds` in a process of its own."""
    checked = verifying.check_integrity(folder, VerifyOptions(key=key))
    return _verified(checked, seconds, require, build=build, every=True, say=say)


def _verified(
    checked: Integrity, seconds: float, require: str | None, *, build: bool, every: bool, say: Say
) -> CommandOutput:
    if build:
        _built(checked, say)
    found = verifying.verify(checked, detect(), _prober(checked, seconds), every=every)
    failure = probe.shortfall(found.tried, require)
    return CommandOutput(tuple(messages.verified(found, every=every)), found, failure)


def build(folder: Path, *, key: Path | None = None, say: Say) -> CommandOutput:
    """An engine for this machine from the bundle's graph, proved and kept beside the bundle."""
    checked = verifying.check_integrity(folder, VerifyOptions(key=key))
    record = building.build(
        *(folder, checked.manifest, detect(), building.engine_path(folder), _prober(checked, _QUICK)), _progress(say)
    )
    return CommandOutput(tuple(messages.built(record, building.engine_path(folder))), record)


def _built(checked: Integrity, say: Say) -> None:
    """Builds where it can: what fails is no failure yet, for the ways below still stand."""
    try:
        place = building.engine_path(checked.folder)
        building.build(checked.folder, checked.manifest, detect(), place, _prober(checked, _QUICK), _progress(say))
    except DeployError as error:
        say(f"no engine was built: {error}")


def run(
    folder: Path, images: Sequence[Path], *, top: int, key: Path | None = None, require: str | None = None
) -> CommandOutput:
    """What the model says of pictures, by the first way that works here."""
    place, digest = _place(folder)
    checked = verifying.check_integrity(place, VerifyOptions(digest=digest, key=key))
    missing = next((image for image in images if not image.is_file()), None)
    if missing:
        raise BadInput(f"there is no file {missing}", "check the path")
    routes = verifying.run_candidates(checked, detect())
    tried = probe.probe_in_order(routes, _prober(checked, 0.0))
    failure = probe.shortfall(tried, require)
    if failure:
        raise failure
    way = routes[len(tried) - 1]
    paths = tuple(str(image.absolute()) for image in images)
    answer = probe.ask(Request("answer", str(place), checked.manifest, way, "", pictures=paths, top=top))
    ran = RunResult(way.tier, answer.guesses)
    return CommandOutput(tuple(messages.ran(ran.tier, ran.guesses)), ran)


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
    """Publishes a bundle under `root`, proves it there, and turns to it."""
    shown: list[Verification] = []

    def prove(checked: Integrity) -> None:
        if build:
            _built(checked, say)
        shown.append(verifying.verify(checked, detect(), _prober(checked, _QUICK)))
        failure = probe.shortfall(shown[-1].tried, require)
        if failure:
            raise failure

    turned = installing.install(folder, root, prove, digest, key)
    before = tuple(messages.verified(shown[-1], every=False))
    return CommandOutput(
        (*before, *messages.pointer(turned, root)), InstallResult(turned, shown[-1]), verdict=len(before)
    )


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

    `logins` is docker's config.json, `ca` a file with the certificates of those who may vouch for a server; all must be
    done within `timeout` seconds.
    """
    place, kind = addresses.parse(address, plain_http=plain_http, ca=ca), subset.parse(target)
    out, signed = out or Path(addresses.bundle_name(place)), verifying.signed(key)
    with sources.open_source(place, reading.read_config(logins), ca, timeout) as source:
        landed = transfer_pull.pull(source, out, kind, digest=digest, signed=signed, reuse_from=reuse_from, say=say)
    return CommandOutput(tuple(messages.landed(landed, kind, key)), landed, verdict=0)


def rollback(root: Path, *, key: Path | None = None) -> CommandOutput:
    """Turns back to the bundle before."""
    turned = installing.rollback(root, key)
    return CommandOutput(tuple(messages.pointer(turned, root)), turned, verdict=0)


def pardon(digest: str, root: Path) -> CommandOutput:
    """Lets a bundle that was given up be installed and started again."""
    turned = installing.pardon(root, digest)
    return CommandOutput(tuple(messages.pointer(turned, root)), turned, verdict=0)


def clean(root: Path, *, yes: bool) -> CommandOutput:
    """Shows what lies under a root and nobody needs, and with `yes` takes it away."""
    left = cleaning.find_leftovers(root)
    kept = leftovers.remove(left) if yes else []
    failure = BadInput(f"{kept[0].path} could not be removed", "check its rights") if kept else None
    return CommandOutput(tuple(leftovers.lines(left, gone=yes)), CleanResult(left, kept, gone=yes), failure)


def doctor(target: str = "") -> CommandOutput:
    """What this machine can build, run and verify, and which known traps it is in."""
    shown = doctors.examine(target)
    return CommandOutput(tuple(diagnosis.lines(shown)), shown, shown.failure)


def _place(folder: Path) -> tuple[Path, str | None]:
    """A bundle itself, or the current one of an install root and the digest that it must have."""
    found = None if (folder / MANIFEST_FILE).exists() else installing.pointer(folder)
    return (installing.root_of(folder, found.current), found.current) if found else (folder, None)


def _prober(checked: Integrity, seconds: float) -> Prober:
    return partial(probe.probe, folder=checked.folder, manifest=checked.manifest, seconds=seconds)


def _progress(say: Say) -> Callable[[int, int], None]:
    """How far a build is and how long it may still take, a line each time it comes further."""
    begun, seen = time.monotonic(), 0

    def watch(done: int, total: int) -> None:
        nonlocal seen
        if done != seen:
            seen = done
            say(messages.progress(done, total, time.monotonic() - begun))

    return watch
