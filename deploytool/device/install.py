"""Installs a bundle beside the one that runs, turns to it at once or not at all, and goes back."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deploytool import bundle, files, only, plain
from deploytool.device import build, starts, verify
from deploytool.device.verify import Asked, Papers
from deploytool.errors import BadInput, DeployError, Refused

_POINTER, _LOCK, _BUNDLES, _STARTS, _STAGE = "current", ".lock", "bundles", "starts", ".staging-"
_FAILURES = 3  # starts in a row
_LONGEST = 64 << 10  # bytes of a pointer

Prove = Callable[[Papers], None]


@dataclass(frozen=True)
class Pointer:
    """What runs and what ran before, by their seals; the highest sequence seen, and the seals that did not start.

    It is one file and changes as one, so that there is always a current bundle.
    """

    current: str
    previous: str | None
    sequence: int
    refused: tuple[str, ...] = ()


def pointer(root: Path) -> Pointer | None:
    """What is installed under a root; None if nothing is. Raises BadInput if the pointer cannot be read."""
    if not (root / _POINTER).exists():
        return None
    try:
        return plain.decode(Pointer, plain.loads(files.read(root / _POINTER, _LONGEST)))
    except (DeployError, plain.Malformed) as error:
        raise BadInput(f"{root / _POINTER} is not as deploytool left it: {error}", "install a bundle again") from error


def home(root: Path, seal: str) -> Path:
    """Where the bundle of a seal lies."""
    return root / _BUNDLES / seal


def asked(root: Path | None, seal: str | None = None, key: Path | None = None) -> Asked:
    """What a bundle must keep to that is to be installed there."""
    found = pointer(root) if root else None
    return Asked(found.sequence, found.refused, seal, key) if found else Asked(seal=seal, key=key)


def install(source: Path, root: Path, prove: Prove, seal: str | None = None, key: Path | None = None) -> Pointer:
    """Copies a bundle into the root, proves it there, and only then makes it the current one.

    `seal` is that of the bundle one means, if it is known; `key` the public key that must have signed it, if one must.
    Raises Refused for bytes that are not the manifest's and for an older sequence, and what `prove` raises; the bundle
    that ran before then still does.
    """
    (root / _BUNDLES).mkdir(parents=True, exist_ok=True)
    with _locked(root):
        before = pointer(root)
        checked = verify.papers(source, asked(root, seal, key))
        place = home(root, checked.seal)
        if not _whole(place):
            _publish(checked, place, root)
        elif key is not None:  # the very bundle may have come before without its signature
            files.publish(place / bundle.SIGNATURE, files.read(source / bundle.SIGNATURE, bundle.LONGEST))
        try:
            prove(verify.papers(place, Asked(key=key)))
        except DeployError:
            if before is None or checked.seal not in (before.current, before.previous):
                _remove(place)
            raise
        after = _turned(before, checked)
        if after != before:
            _point(root, after)
        _sweep(root, after)
    return after


def _turned(before: Pointer | None, checked: Papers) -> Pointer:
    sequence = checked.manifest.sequence
    if before is None:
        return Pointer(checked.seal, None, sequence)
    previous = before.previous if checked.seal == before.current else before.current
    return replace(before, current=checked.seal, previous=previous, sequence=max(before.sequence, sequence))


def rollback(root: Path, key: Path | None = None) -> Pointer:
    """Makes the previous bundle the current one, and the other way round.

    Raises BadInput if there is none, Refused if it is no longer whole, or not signed by the key, if one must have.
    """
    with _locked(root):
        before = _some(root)
        if before.previous is None:
            raise BadInput(f"{root} holds no previous bundle", "install one")
        verify.papers(home(root, before.previous), Asked(key=key))
        after = replace(before, current=before.previous, previous=before.current)
        _point(root, after)
    return after


def started(root: Path) -> Pointer:
    """What is to be started now: the current bundle, or the one before if it has failed to start three times.

    A bundle that was given up is not installed again, and with nothing to go back to the current one is tried again.
    """
    found = _some(root)
    if starts.failed(starts_of(root, found.current)) < _FAILURES or found.previous is None:
        return found
    with _locked(root):
        now = _some(root)
        if now == found:  # nobody else has gone back meanwhile
            bad = found.current
            now = replace(found, current=found.previous, previous=None, refused=(*found.refused, bad))
            _point(root, now)
    return now


def starts_of(root: Path, seal: str) -> Path:
    """Where the starts of a bundle are recorded."""
    return root / _STARTS / seal


def _some(root: Path) -> Pointer:
    found = pointer(root)
    if found is None:
        raise BadInput(f"nothing is installed in {root}", "deploytool install BUNDLE --root DIR")
    return found


def _whole(place: Path) -> bool:
    try:
        verify.papers(place)
    except Refused:
        return False
    return True


def _publish(checked: Papers, place: Path, root: Path) -> None:
    """Copies what the manifest names, each byte hashed on its way, and renames the whole into its place."""
    stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=root))
    try:
        left_out = only.others(checked.manifest, only.read(checked.folder))
        for file in bundle.every(checked.manifest):
            if file.path in left_out and not (checked.folder / file.path).exists():
                continue
            (stage / file.path).parent.mkdir(parents=True, exist_ok=True)
            files.hold(checked.folder / file.path, file.size, file.sha256, stage / file.path)
        for name in bundle.BESIDE:
            if name == bundle.MANIFEST or (checked.folder / name).exists():
                files.publish(stage / name, files.read(checked.folder / name, bundle.LONGEST))
        verify.papers(stage)
        if bundle.seal(stage) != checked.seal:
            raise Refused(f"{checked.folder} changed while it was copied", files.AGAIN)
        for folder in [stage, *(path for path in stage.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
            files.settle(folder)
        _remove(place)  # what is left of a damaged copy
        stage.replace(place)
        files.settle(place.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _point(root: Path, to: Pointer) -> None:
    files.publish(root / _POINTER, plain.text(to).encode())


def _sweep(root: Path, keep: Pointer) -> None:
    """Removes what a killed install left and every bundle that is neither current nor previous."""
    for left in root.glob(f"{_STAGE}*"):
        shutil.rmtree(left, ignore_errors=True)
    for making in root.glob(f".{_POINTER}.*"):
        making.unlink(missing_ok=True)
    for place in (root / _BUNDLES).iterdir():
        if place.name.partition(".")[0] not in (keep.current, keep.previous):
            shutil.rmtree(place, ignore_errors=True)


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(build.place(place), ignore_errors=True)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One at a time: it saves work and sweeps no bundle away that another is about to turn to."""
    opened = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
