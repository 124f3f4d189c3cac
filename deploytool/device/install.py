"""Installs bundles under a root, switches the current bundle atomically, and rolls back."""

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
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    SIGNATURE_FILE,
    SUBSET_FILE,
    UNLISTED_FILES,
    File,
    all_files,
    is_digest,
    manifest_digest,
)
from deploytool.device import build, start_attempts, verify
from deploytool.device.verify import Integrity, VerifyOptions
from deploytool.errors import BadInput, DeployError, Refused
from deploytool.host import disk, files, locks, owner

_POINTER, _LOCK, _BUNDLES, _STARTS, _STAGE = "current", ".lock", "bundles", "starts", ".staging-"
_ATTEMPTS = 3  # where locks do not work, another install may remove what this one is about to switch to
_MAX_FAILED_STARTS = 3  # in a row
_MAX_POINTER_BYTES = 64 << 10

Verifier = Callable[[Integrity], None]


@dataclass(frozen=True)
class Pointer:
    """Digests of the current and the previous bundle, the highest sequence installed, refused digests with the reason.

    It is one file and is replaced atomically, so that there always is a current bundle.
    """

    current: str
    previous: str | None
    sequence: int
    refused: Mapping[str, str] = field(default_factory=dict)


def read_pointer(root: Path) -> Pointer | None:
    """What is installed under a root; None if nothing is. Raises BadInput if the pointer cannot be read."""
    if not (root / _POINTER).exists():
        return None
    try:
        pointer = serde.decode(Pointer, serde.loads(files.read(root / _POINTER, _MAX_POINTER_BYTES)))
        digests = (pointer.current, pointer.previous or pointer.current, *pointer.refused)
        if not all(is_digest(digest) for digest in digests):
            raise serde.Malformed("it contains a name that is not a digest")
        return pointer
    except (DeployError, serde.Malformed) as error:
        raise BadInput(f"{root / _POINTER} is damaged: {error}", "install a bundle again") from error


def has_pointer(root: Path) -> bool:
    """Whether there is a pointer, readable or not."""
    return (root / _POINTER).is_file()


def bundle_path(root: Path, digest: str) -> Path:
    """The folder of the installed bundle with a digest."""
    return root / _BUNDLES / digest


def verify_options(root: Path | None, digest: str | None = None, key: Path | None = None) -> VerifyOptions:
    """What a bundle is checked against before it is installed under `root`."""
    pointer = read_pointer(root) if root else None
    if pointer is None:
        return VerifyOptions(digest=digest, key=key)
    return VerifyOptions(pointer.sequence, pointer.refused, digest, key)


def install(
    source: Path, root: Path, verifier: Verifier, digest: str | None = None, key: Path | None = None
) -> Pointer:
    """Copies a bundle under the root, verifies it there, and then makes it the current one.

    `digest` is that of the expected bundle, if it is known; `key` is the public key that must have signed it, if one
    must. Raises Refused for files that differ from the manifest and for an older sequence, and what `verifier` raises;
    the current bundle then stays the same.
    """
    (root / _BUNDLES).mkdir(parents=True, exist_ok=True)
    with _locked(root) as exclusive:
        for _ in range(_ATTEMPTS):
            checked = verify.check_integrity(source, verify_options(root, digest, key))
            folder = bundle_path(root, checked.digest)
            _copy(checked, folder, root, signed=key is not None)
            _verify(folder, root, verifier, key, exclusive=exclusive)
            before = read_pointer(root)
            if before and checked.manifest.sequence < before.sequence:
                continue  # a later bundle was installed meanwhile: the next check refuses this one
            after = _switched(before, checked)
            if after != before:
                start_attempts.forget(start_records(root, checked.digest))
                _write_pointer(root, after)
            if (folder / MANIFEST_FILE).exists():
                _sweep(root, _installed(root), exclusive=exclusive)
                return after
    raise BadInput(f"other processes install in {root} all the time", "install again, one at a time")


def _copy(checked: Integrity, folder: Path, root: Path, *, signed: bool) -> None:
    """Publishes the bundle unless it is installed already, with its signature if one is required."""
    with suppress(FileNotFoundError):
        os.utime(folder)  # a sweep without a lock leaves young folders
    if not _is_intact(folder):
        _publish(checked, folder, root)
    elif signed:  # the same bundle may have been installed before without its signature
        signature = files.read(checked.folder / SIGNATURE_FILE, MAX_MANIFEST_BYTES)
        files.publish(folder / SIGNATURE_FILE, signature, root)
    _add_engines(checked, folder, root)


def _verify(folder: Path, root: Path, verifier: Verifier, key: Path | None, *, exclusive: bool) -> None:
    """Verifies an installed bundle; one that fails and is not in use is removed."""
    try:
        verifier(verify.check_integrity(folder, VerifyOptions(digest=folder.name, key=key)))
    except DeployError:
        pointer = read_pointer(root)
        if exclusive and (pointer is None or folder.name not in (pointer.current, pointer.previous)):
            _remove(folder)
        raise


def _switched(before: Pointer | None, checked: Integrity) -> Pointer:
    """The pointer after the bundle has become the current one."""
    sequence = checked.manifest.sequence
    if before is None:
        return Pointer(checked.digest, None, sequence)
    previous = before.previous if checked.digest == before.current else before.current
    return replace(before, current=checked.digest, previous=previous, sequence=max(before.sequence, sequence))


def rollback(root: Path, key: Path | None = None) -> Pointer:
    """Exchanges the current and the previous bundle.

    Raises BadInput if there is no previous one, Refused if it is damaged, or not signed by the key, if one must have.
    """
    _installed(root)
    with _locked(root):
        before = _installed(root)
        if before.previous is None:
            raise BadInput(f"there is no previous bundle in {root}", "install one")
        verify.check_integrity(bundle_path(root, before.previous), VerifyOptions(digest=before.previous, key=key))
        after = replace(before, current=before.previous, previous=before.current)
        _write_pointer(root, after)
    return after


def bundle_to_start(root: Path) -> Pointer:
    """The pointer to start from: rolled back if the current bundle failed to start three times in a row.

    A bundle that was rolled back this way is refused until it is pardoned. Without a previous bundle the current one
    is tried again.
    """
    pointer = _installed(root)
    failures = start_attempts.failures(start_records(root, pointer.current))
    if len(failures) < _MAX_FAILED_STARTS or pointer.previous is None:
        return pointer
    with _locked(root):
        latest = _installed(root)
        if latest == pointer:  # no other process has rolled back meanwhile
            reason = f"it failed to start {_MAX_FAILED_STARTS} times in a row, most recently: {failures[-1]}"
            latest = Pointer(pointer.previous, None, latest.sequence, {**latest.refused, latest.current: reason})
            _write_pointer(root, latest)
    return latest


def pardon(root: Path, digest: str) -> Pointer:
    """Allows a refused bundle to be installed and started again; `digest` may be the first digits of its digest.

    Raises BadInput if `digest` matches no refused bundle, or more than one.
    """
    _installed(root)
    with _locked(root):
        before = _installed(root)
        matches = [refused for refused in before.refused if refused.startswith(digest)]
        if len(matches) != 1:
            known = ", ".join(refused[:12] for refused in before.refused) or "none"
            problem = f"{digest[:64]!r} does not name one bundle that was given up in {root}"
            raise BadInput(problem, f"bundles given up: {known}")
        start_attempts.forget(start_records(root, matches[0]))
        after = replace(before, refused={key: why for key, why in before.refused.items() if key != matches[0]})
        _write_pointer(root, after)
    return after


def start_records(root: Path, digest: str) -> Path:
    """The folder in which the starts of a bundle are counted."""
    return root / _STARTS / digest


def _installed(root: Path) -> Pointer:
    pointer = read_pointer(root)
    if pointer is None:
        raise BadInput(f"nothing is installed in {root}", "deploytool install BUNDLE --root DIR")
    return pointer


def _is_intact(folder: Path) -> bool:
    """Whether a folder holds the bundle with the digest that it is named after."""
    try:
        verify.check_integrity(folder, VerifyOptions(digest=folder.name))
    except Refused:
        return False
    return True


def _present(checked: Integrity) -> list[File]:
    """The files of a bundle that its folder holds: all that the manifest lists but engines that were left out."""
    omitted = subset.omitted_engines(checked.manifest, subset.read(checked.folder))
    return [
        file
        for file in all_files(checked.manifest)
        if file.path not in omitted or (checked.folder / file.path).exists()
    ]


def _add_engines(checked: Integrity, folder: Path, root: Path) -> None:
    """Adds the engines that an installed bundle lacks because it was fetched for one target, each atomically.

    The bundle may be the current one: it is intact after each step, since an omitted engine may be there.
    """
    missing = [file for file in _present(checked) if not (folder / file.path).exists()]
    if not missing:
        return
    disk.check(root, sum(file.size for file in missing), checked.manifest.name)
    for file in missing:
        copy = root / f"{_STAGE}{owner.name()}"
        files.verify_file(checked.folder / file.path, file.size, file.sha256, copy)
        (folder / file.path).parent.mkdir(exist_ok=True)
        copy.replace(folder / file.path)
        files.sync_folder((folder / file.path).parent)
    if subset.read(checked.folder) is None:
        files.remove(folder / SUBSET_FILE)
    else:
        files.publish(folder / SUBSET_FILE, files.read(checked.folder / SUBSET_FILE, MAX_MANIFEST_BYTES), root)


def _publish(checked: Integrity, folder: Path, root: Path) -> None:
    """Copies the files that the manifest lists, hashes each while it is copied, and renames the copy into place."""
    listed = _present(checked)
    disk.check(root, sum(file.size for file in listed), checked.manifest.name)
    stage = root / f"{_STAGE}{owner.name()}"
    stage.mkdir()
    try:
        for file in listed:
            (stage / file.path).parent.mkdir(parents=True, exist_ok=True)
            files.verify_file(checked.folder / file.path, file.size, file.sha256, stage / file.path)
        for name in UNLISTED_FILES:
            if name == MANIFEST_FILE or (checked.folder / name).exists():
                files.publish(stage / name, files.read(checked.folder / name, MAX_MANIFEST_BYTES))
        verify.check_integrity(stage)
        if manifest_digest(stage) != checked.digest:
            raise Refused(f"{checked.folder} changed while it was copied", files.FETCH_AGAIN)
        for path in [stage, *(path for path in stage.rglob("*") if path.is_dir())]:
            path.chmod(0o755)
            files.sync_folder(path)
        _rename_into_place(stage, folder, root)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write_pointer(root: Path, pointer: Pointer) -> None:
    files.publish(root / _POINTER, serde.text(pointer).encode())


def _rename_into_place(stage: Path, folder: Path, root: Path) -> None:
    """Renames a complete copy to its folder; a damaged copy there is removed, an intact one that just came is kept."""
    for _ in range(_ATTEMPTS):
        with suppress(OSError):
            stage.replace(folder)
            break
        if _is_intact(folder):
            return
        damaged = root / f"{_STAGE}{owner.name()}"
        with suppress(FileNotFoundError):
            folder.rename(damaged)
            files.remove(damaged)
            files.remove(build.engine_path(folder))
    else:
        remedy = "check its permissions, and that no other process installs there"
        raise BadInput(f"{folder} cannot be replaced", remedy)
    files.sync_folder(folder.parent)


def _sweep(root: Path, pointer: Pointer, *, exclusive: bool) -> None:
    """Removes what a killed install left, and every bundle that is neither current nor previous.

    Where locks do not work, another install may be about to switch to a bundle: then only old ones are removed.
    """
    files.sweep(root, f"{_STAGE}*")
    files.sweep(root, f".*{files.UNFINISHED}")
    for folder in (root / _BUNDLES).iterdir():
        in_use = folder.name.partition(".")[0] in (pointer.current, pointer.previous)
        if not in_use and (exclusive or _is_old(folder)):
            files.remove(folder)


def _is_old(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > owner.ABANDONED_S
    except OSError:
        return False  # it is gone


def _remove(folder: Path) -> None:
    files.remove(folder)
    files.remove(build.engine_path(folder))


@contextmanager
def _locked(root: Path) -> Iterator[bool]:
    """Allows one install at a time to save work; yields whether the lock works, as some network disks ignore it."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
    descriptor, second = (os.open(root / _LOCK, flags, 0o644) for _ in range(2))
    try:
        locks.acquire(descriptor, wait=True)
        yield not locks.acquire(second)
    finally:
        os.close(second)
        os.close(descriptor)
