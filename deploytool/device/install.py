"""Installs a bundle beside the one that runs, turns to it at once or not at all, and goes back."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploytool import serde
from deploytool.bundle import subset
from deploytool.bundle.manifest import (
    BESIDE,
    LONGEST_MANIFEST,
    MANIFEST_FILE,
    SIGNATURE_FILE,
    all_files,
    is_digest,
    manifest_digest,
)
from deploytool.device import build, start_attempts, verify
from deploytool.device.verify import Integrity, VerifyOptions
from deploytool.errors import BadInput, DeployError, Refused
from deploytool.host import disk, files, locks, owner

_POINTER, _LOCK, _BUNDLES, _STARTS, _STAGE = "current", ".lock", "bundles", "starts", ".staging-"
_TRIES = 3  # where no lock holds, another install may take away what this one turns to
_FAILURES = 3  # starts in a row
_LONGEST = 64 << 10  # bytes of a pointer

Prove = Callable[[Integrity], None]


@dataclass(frozen=True)
class Pointer:
    """What runs and what ran before, by their digests; the highest sequence seen, and the digests given up, with why.

    It is one file and changes as one, so that there is always a current bundle.
    """

    current: str
    previous: str | None
    sequence: int
    refused: Mapping[str, str] = field(default_factory=dict)


def pointer(root: Path) -> Pointer | None:
    """What is installed under a root; None if nothing is. Raises BadInput if the pointer cannot be read."""
    if not (root / _POINTER).exists():
        return None
    try:
        found = serde.decode(Pointer, serde.loads(files.read(root / _POINTER, _LONGEST)))
        if not all(is_digest(digest) for digest in (found.current, found.previous or found.current, *found.refused)):
            raise serde.Malformed("what it names is no digest")
        return found
    except (DeployError, serde.Malformed) as error:
        raise BadInput(f"{root / _POINTER} is not as deploytool left it: {error}", "install a bundle again") from error


def is_pointed(root: Path) -> bool:
    """Whether there is a pointer, whatever it says."""
    return (root / _POINTER).is_file()


def root_of(root: Path, digest: str) -> Path:
    """Where the bundle of a digest lies."""
    return root / _BUNDLES / digest


def wanted_digest(root: Path | None, digest: str | None = None, key: Path | None = None) -> VerifyOptions:
    """What a bundle must keep to that is to be installed there."""
    found = pointer(root) if root else None
    return VerifyOptions(found.sequence, found.refused, digest, key) if found else VerifyOptions(digest=digest, key=key)


def install(source: Path, root: Path, prove: Prove, digest: str | None = None, key: Path | None = None) -> Pointer:
    """Copies a bundle into the root, proves it there, and only then makes it the current one.

    `digest` is that of the expected bundle, if it is known; `key` the public key that must have signed it, if one must.
    Raises Refused for bytes that are not the manifest's and for an older sequence, and what `faults` raises; the bundle
    that ran before then still does.
    """
    (root / _BUNDLES).mkdir(parents=True, exist_ok=True)
    with _locked(root) as alone:
        for _ in range(_TRIES):
            checked = verify.check_integrity(source, wanted_digest(root, digest, key))
            place = root_of(root, checked.digest)
            _bring(checked, place, root, signed=key is not None)
            _proved(place, root, prove, key, alone=alone)
            before = pointer(root)
            if before and checked.manifest.sequence < before.sequence:
                continue  # a later one came meanwhile: the papers are checked once more
            after = _turned(before, checked)
            if after != before:
                start_attempts.forget(start_records(root, checked.digest))
                _point(root, after)
            if (place / MANIFEST_FILE).exists():
                _sweep(root, _some(root), alone=alone)
                return after
    raise BadInput(f"others install in {root} without pause", "install again, one at a time")


def _bring(checked: Integrity, place: Path, root: Path, *, signed: bool) -> None:
    """Has the bundle in its place, with its signature if one was asked for."""
    with suppress(FileNotFoundError):
        os.utime(place)  # whoever sweeps without a lock leaves what is young
    if not _whole(place):
        _publish(checked, place, root)
    elif signed:  # the very bundle may have come before without its signature
        files.publish(place / SIGNATURE_FILE, files.read(checked.folder / SIGNATURE_FILE, LONGEST_MANIFEST), root)


def _proved(place: Path, root: Path, prove: Prove, key: Path | None, *, alone: bool) -> None:
    try:
        prove(verify.check_integrity(place, VerifyOptions(digest=place.name, key=key)))
    except DeployError:
        found = pointer(root)
        if alone and (found is None or place.name not in (found.current, found.previous)):
            _remove(place)
        raise


def _turned(before: Pointer | None, checked: Integrity) -> Pointer:
    sequence = checked.manifest.sequence
    if before is None:
        return Pointer(checked.digest, None, sequence)
    previous = before.previous if checked.digest == before.current else before.current
    return replace(before, current=checked.digest, previous=previous, sequence=max(before.sequence, sequence))


def rollback(root: Path, key: Path | None = None) -> Pointer:
    """Makes the previous bundle the current one, and the other way round.

    Raises BadInput if there is none, Refused if it is no longer whole, or not signed by the key, if one must have.
    """
    _some(root)
    with _locked(root):
        before = _some(root)
        if before.previous is None:
            raise BadInput(f"{root} holds no previous bundle", "install one")
        verify.check_integrity(root_of(root, before.previous), VerifyOptions(digest=before.previous, key=key))
        after = replace(before, current=before.previous, previous=before.current)
        _point(root, after)
    return after


def started(root: Path) -> Pointer:
    """What is to be started now: the current bundle, or the one before if it has failed to start three times.

    A bundle that was given up is not installed again until it is pardoned, and with nothing to go back to the current
    one is tried again.
    """
    found = _some(root)
    failures = start_attempts.failures(start_records(root, found.current))
    if len(failures) < _FAILURES or found.previous is None:
        return found
    with _locked(root):
        now = _some(root)
        if now == found:  # nobody else has gone back meanwhile
            why = f"it failed to start {_FAILURES} times in a row, at last: {failures[-1]}"
            now = Pointer(found.previous, None, now.sequence, {**now.refused, now.current: why})
            _point(root, now)
    return now


def pardon(root: Path, digest: str) -> Pointer:
    """Lets a bundle that was given up be installed and started again; the first digits of its digest will do.

    Raises BadInput if no such bundle, or more than one, was given up.
    """
    _some(root)
    with _locked(root):
        before = _some(root)
        meant = [one for one in before.refused if one.startswith(digest)]
        if len(meant) != 1:
            known = ", ".join(one[:12] for one in before.refused) or "none"
            raise BadInput(f"{digest[:64]!r} is not one bundle that was given up in {root}", f"those are: {known}")
        start_attempts.forget(start_records(root, meant[0]))
        after = replace(before, refused={one: why for one, why in before.refused.items() if one != meant[0]})
        _point(root, after)
    return after


def start_records(root: Path, digest: str) -> Path:
    """Where the starts of a bundle are recorded."""
    return root / _STARTS / digest


def _some(root: Path) -> Pointer:
    found = pointer(root)
    if found is None:
        raise BadInput(f"nothing is installed in {root}", "deploytool install BUNDLE --root DIR")
    return found


def _whole(place: Path) -> bool:
    """Whether the bundle that a place is named after lies there, and no other."""
    try:
        verify.check_integrity(place, VerifyOptions(digest=place.name))
    except Refused:
        return False
    return True


def _publish(checked: Integrity, place: Path, root: Path) -> None:
    """Copies what the manifest names, each byte hashed on its way, and renames the whole into its place."""
    left_out = subset.omitted_engines(checked.manifest, subset.read(checked.folder))
    listed = [
        file
        for file in all_files(checked.manifest)
        if file.path not in left_out or (checked.folder / file.path).exists()
    ]
    disk.check(root, sum(file.size for file in listed), checked.manifest.name)
    stage = root / f"{_STAGE}{owner.name()}"
    stage.mkdir()
    try:
        for file in listed:
            (stage / file.path).parent.mkdir(parents=True, exist_ok=True)
            files.verify_file(checked.folder / file.path, file.size, file.sha256, stage / file.path)
        for name in BESIDE:
            if name == MANIFEST_FILE or (checked.folder / name).exists():
                files.publish(stage / name, files.read(checked.folder / name, LONGEST_MANIFEST))
        verify.check_integrity(stage)
        if manifest_digest(stage) != checked.digest:
            raise Refused(f"{checked.folder} changed while it was copied", files.AGAIN)
        for folder in [stage, *(path for path in stage.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
            files.sync_folder(folder)
        _show(stage, place, root)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _point(root: Path, to: Pointer) -> None:
    files.publish(root / _POINTER, serde.text(to).encode())


def _show(stage: Path, place: Path, root: Path) -> None:
    """Renames a whole copy into its place; what is left of a damaged one goes, and one that just came whole stays."""
    for _ in range(_TRIES):
        with suppress(OSError):
            stage.replace(place)
            break
        if _whole(place):
            return
        aside = root / f"{_STAGE}{owner.name()}"
        with suppress(FileNotFoundError):
            place.rename(aside)
            files.remove(aside)
            files.remove(build.engine_path(place))
    else:
        raise BadInput(f"{place} cannot be replaced", "check its rights, and that nobody else installs there")
    files.sync_folder(place.parent)


def _sweep(root: Path, keep: Pointer, *, alone: bool) -> None:
    """Removes what a killed install left and every bundle that is neither current nor previous.

    Where the lock does not hold, another install may be about to turn to a bundle: then only old ones go.
    """
    files.sweep(root, f"{_STAGE}*")
    files.sweep(root, f".*{files.UNFINISHED}")
    for place in (root / _BUNDLES).iterdir():
        if place.name.partition(".")[0] not in (keep.current, keep.previous) and (alone or _is_old(place)):
            files.remove(place)


def _is_old(place: Path) -> bool:
    try:
        return time.time() - place.stat().st_mtime > owner.ABANDONED_S
    except OSError:
        return False  # it is gone


def _remove(place: Path) -> None:
    files.remove(place)
    files.remove(build.engine_path(place))


@contextmanager
def _locked(root: Path) -> Iterator[bool]:
    """One at a time, which saves work; gives whether the lock holds, for on some network disks it does nothing."""
    mine, other = (os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644) for _ in range(2))
    try:
        locks.acquire(mine, wait=True)
        yield not locks.acquire(other)
    finally:
        os.close(other)
        os.close(mine)
