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
from deploytool.device.environment import here
from deploytool.device.install import Pointer
from deploytool.device.output import Say, Told
from deploytool.device.probe import Prober
from deploytool.device.verify import Asked, Papers, Verified
from deploytool.device.worker import Guess, Request
from deploytool.doctor import messages as diagnosis
from deploytool.errors import BadInput, DeployError
from deploytool.run_folder import leftovers
from deploytool.run_folder.leftovers import Litter
from deploytool.transfer import addresses, sources
from deploytool.transfer import auth as reading
from deploytool.transfer import pull as transfer_pull

_QUICK = 0.3  # seconds of timing where it is not the point


@dataclass(frozen=True)
class Ran:
    """What `run` showed: the way that served, and what it said of each picture."""

    tier: Tier
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Installed:
    """What `install` showed, and where the pointer stands now."""

    pointer: Pointer
    verified: Verified


@dataclass(frozen=True)
class Cleaned:
    """What lay there and nobody needs, whether it was to go, and what could not be removed."""

    found: Sequence[Litter]
    kept: Sequence[Litter]
    gone: bool


def verify(
    folder: Path,
    *,
    root: Path | None = None,
    seal: str | None = None,
    key: Path | None = None,
    require: str | None = None,
    build: bool = False,
    say: Say,
) -> Told:
    """Papers, target, golden cases; with `root`, the sequence against what is installed there.

    `key`, here and below, is the file of the public key that must have signed the bundle, if one must have.
    """
    checked = verifying.papers(folder, installing.asked(root, seal, key))
    return _verified(checked, _QUICK, require, build=build, every=False, say=say)


def bench(
    folder: Path,
    *,
    seconds: float,
    key: Path | None = None,
    require: str | None = None,
    build: bool = False,
    say: Say,
) -> Told:
    """The same with every way that runs here, each timed for `seconds` in a process of its own."""
    checked = verifying.papers(folder, Asked(key=key))
    return _verified(checked, seconds, require, build=build, every=True, say=say)


def _verified(checked: Papers, seconds: float, require: str | None, *, build: bool, every: bool, say: Say) -> Told:
    if build:
        _built(checked, say)
    found = verifying.verify(checked, here(), _prober(checked, seconds), every=every)
    failure = probe.shortfall(found.tried, require)
    return Told(tuple(messages.verified(found, every=every)), found, failure)


def build(folder: Path, *, key: Path | None = None, say: Say) -> Told:
    """An engine for this machine from the bundle's graph, proved and kept beside the bundle."""
    checked = verifying.papers(folder, Asked(key=key))
    record = building.build(
        *(folder, checked.manifest, here(), building.place(folder), _prober(checked, _QUICK)), _progress(say)
    )
    return Told(tuple(messages.built(record, building.place(folder))), record)


def _built(checked: Papers, say: Say) -> None:
    """Builds where it can: what fails is no failure yet, for the ways below still stand."""
    try:
        place = building.place(checked.folder)
        building.build(checked.folder, checked.manifest, here(), place, _prober(checked, _QUICK), _progress(say))
    except DeployError as error:
        say(f"no engine was built: {error}")


def run(folder: Path, images: Sequence[Path], *, top: int, key: Path | None = None, require: str | None = None) -> Told:
    """What the model says of pictures, by the first way that works here."""
    place, seal = _place(folder)
    checked = verifying.papers(place, Asked(seal=seal, key=key))
    missing = next((image for image in images if not image.is_file()), None)
    if missing:
        raise BadInput(f"there is no file {missing}", "check the path")
    routes = verifying.routes(checked, here())
    tried = probe.climb(routes, _prober(checked, 0.0))
    failure = probe.shortfall(tried, require)
    if failure:
        raise failure
    way = routes[len(tried) - 1]
    paths = tuple(str(image.absolute()) for image in images)
    answer = probe.ask(Request("answer", str(place), checked.manifest, way, "", pictures=paths, top=top))
    ran = Ran(way.tier, answer.guesses)
    return Told(tuple(messages.ran(ran.tier, ran.guesses)), ran)


def install(
    folder: Path,
    root: Path,
    *,
    seal: str | None = None,
    key: Path | None = None,
    require: str | None = None,
    build: bool = False,
    say: Say,
) -> Told:
    """Publishes a bundle under `root`, proves it there, and turns to it."""
    shown: list[Verified] = []

    def prove(checked: Papers) -> None:
        if build:
            _built(checked, say)
        shown.append(verifying.verify(checked, here(), _prober(checked, _QUICK)))
        failure = probe.shortfall(shown[-1].tried, require)
        if failure:
            raise failure

    turned = installing.install(folder, root, prove, seal, key)
    before = tuple(messages.verified(shown[-1], every=False))
    return Told((*before, *messages.pointer(turned, root)), Installed(turned, shown[-1]), verdict=len(before))


def pull(
    address: str,
    out: Path | None,
    *,
    target: str | None = None,
    seal: str | None = None,
    key: Path | None = None,
    near: Sequence[Path] = (),
    plain_http: bool = False,
    ca: Path | None = None,
    timeout: float | None = None,
    logins: Path | None,
    say: Say,
) -> Told:
    """Fetches a bundle, or what a target needs of it, into a new folder.

    `logins` is docker's config.json, `ca` a file with the certificates of those who may vouch for a server; all must be
    done within `timeout` seconds.
    """
    place, kind = addresses.parse(address, plain_http=plain_http, ca=ca), subset.wanted(target)
    out, signed = out or Path(addresses.stem(place)), verifying.signed(key)
    with sources.opened(place, reading.read(logins), ca, timeout) as source:
        landed = transfer_pull.land(source, out, kind, seal=seal, signed=signed, near=near, say=say)
    return Told(tuple(messages.landed(landed, kind, key)), landed, verdict=0)


def rollback(root: Path, *, key: Path | None = None) -> Told:
    """Turns back to the bundle before."""
    turned = installing.rollback(root, key)
    return Told(tuple(messages.pointer(turned, root)), turned, verdict=0)


def pardon(seal: str, root: Path) -> Told:
    """Lets a bundle that was given up be installed and started again."""
    turned = installing.pardon(root, seal)
    return Told(tuple(messages.pointer(turned, root)), turned, verdict=0)


def clean(root: Path, *, yes: bool) -> Told:
    """Shows what lies under a root and nobody needs, and with `yes` takes it away."""
    left = cleaning.found(root)
    kept = leftovers.remove(left) if yes else []
    failure = BadInput(f"{kept[0].path} could not be removed", "check its rights") if kept else None
    return Told(tuple(leftovers.lines(left, gone=yes)), Cleaned(left, kept, gone=yes), failure)


def doctor(target: str = "") -> Told:
    """What this machine can build, run and verify, and which known traps it is in."""
    shown = doctors.examine(target)
    return Told(tuple(diagnosis.told(shown)), shown, shown.failure)


def _place(folder: Path) -> tuple[Path, str | None]:
    """A bundle itself, or the current one of an install root and the seal that it must have."""
    found = None if (folder / MANIFEST_FILE).exists() else installing.pointer(folder)
    return (installing.home(folder, found.current), found.current) if found else (folder, None)


def _prober(checked: Papers, seconds: float) -> Prober:
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
