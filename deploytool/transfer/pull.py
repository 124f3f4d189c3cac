"""Fetches a bundle into a staging folder, hashes every byte as it arrives, and publishes the bundle by a rename."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deploytool import serde
from deploytool.bundle import subset
from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    SUBSET_FILE,
    UNLISTED_FILES,
    File,
    Manifest,
    all_files,
    check_files,
    manifest_digest,
    read_manifest,
)
from deploytool.bundle.subset import Subset
from deploytool.errors import BadInput, Refused
from deploytool.host import disk, files, locks, owner
from deploytool.transfer import download
from deploytool.transfer.sources import Source

Say = Callable[[str], None]
Signed = Callable[[Mapping[str, bytes], str], Mapping[str, str]]  # verifies a signature; the digests that it signs

_LOG = logging.getLogger(__name__)
_TREE, _PARTS, _LOCK = "tree", "parts", "lock"


@dataclass(frozen=True)
class PullResult:
    """A bundle that was fetched: its folder and identity, the bytes that were fetched and that were here already."""

    folder: str
    name: str
    digest: str
    sequence: int
    files: int
    left_out: int
    fetched: int
    here: int


def pull(
    source: Source,
    out: Path,
    kind: Subset | None,
    *,
    digest: str | None = None,
    signed: Signed | None = None,
    reuse_from: Sequence[Path] = (),
    say: Say,
) -> PullResult:
    """Fetches the subset `kind` of a bundle into the folder `out`; the whole bundle if `kind` is None.

    `signed` verifies the signature before anything is parsed or written. `reuse_from` are bundles or install roots
    whose files are copied instead of fetched. An interrupted fetch resumes.

    Raises Refused for other bytes than the manifest's, another digest, or another key, Unreachable if the source does
    not answer.
    """
    beside = source.beside()
    found_digest = hashlib.sha256(beside[MANIFEST_FILE]).hexdigest()
    if digest is not None and found_digest != digest:
        raise Refused(f"this is another bundle, with the digest {found_digest}", "check the digest, or the address")
    names = signed(beside, "the bundle") if signed else None
    if out.exists() or out.is_symlink():
        result = _existing(out, found_digest, kind, names, beside)
        _remove_staging(out)
        return result
    with _stage(out) as stage:
        tree = stage / found_digest / _TREE
        manifest = _prepare(tree, stage, beside, kind)
        try:
            source.agree(manifest)
            _check_signed(names, manifest)
        except Refused:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        wanted = _wanted(manifest, kind)
        _check_disk_space(out, wanted, tree)
        fetched, here, known = 0, 0, _index_files(reuse_from)
        say(f"{len(wanted)} files, {disk.size(sum(file.size for file in wanted))}")
        for file in wanted:
            if _is_complete(tree / file.path, file) or _copy_known(file, tree / file.path, known):
                here += file.size
                continue
            received = download.fetch(source, file, tree / file.path, stage / found_digest / _PARTS)
            fetched, here = fetched + received, here + max(file.size - received, 0)
            _LOG.debug("%s: %s", file.path, disk.size(file.size))
            known.setdefault(file.sha256, []).append(tree / file.path)
        _publish(tree, manifest, kind, out)
    return _result(out, found_digest, manifest, kind, fetched, here)


def _result(out: Path, digest: str, manifest: Manifest, kind: Subset | None, fetched: int, here: int) -> PullResult:
    left_out = len(subset.omitted_engines(manifest, kind))
    number = len(all_files(manifest)) - left_out
    return PullResult(str(out), manifest.name, digest, manifest.sequence, number, left_out, fetched, here)


def _check_signed(names: Mapping[str, str] | None, manifest: Manifest) -> None:
    """Raises Refused unless every file of the manifest is signed with the digest that the manifest states."""
    for file in all_files(manifest):
        if names is not None and names.get(file.path) != file.sha256:
            raise Refused(f"{file.path} is not signed with the digest that the manifest states", files.FETCH_AGAIN)


def _existing(
    out: Path, digest: str, kind: Subset | None, names: Mapping[str, str] | None, beside: Mapping[str, bytes]
) -> PullResult:
    """The result for a folder that holds this bundle already; adds the signature if it was verified now.

    Raises BadInput if the folder holds anything else.
    """
    try:
        manifest, present = read_manifest(out), subset.read(out)
        same = manifest_digest(out) == digest and present == kind
    except Refused:
        same = False
    if not same:
        raise BadInput(
            f"{out} already exists", "choose another folder with --out, and --reuse-from for the files that it holds"
        )
    check_files(out, manifest, subset.omitted_engines(manifest, kind))
    _check_signed(names, manifest)
    if names is not None:  # the bundle may have been fetched without its signature before
        files.sweep(out.parent, f".{SIGNATURE_FILE}.*{files.UNFINISHED}")
        files.publish(out / SIGNATURE_FILE, beside[SIGNATURE_FILE], out.parent)
    return _result(out, digest, manifest, kind, 0, sum(file.size for file in _wanted(manifest, kind)))


def _wanted(manifest: Manifest, kind: Subset | None) -> tuple[File, ...]:
    omitted = subset.omitted_engines(manifest, kind)
    return tuple(file for file in all_files(manifest) if file.path not in omitted)


@contextmanager
def _stage(out: Path) -> Iterator[Path]:
    """A locked, hidden folder beside `out`; after an error it stays for the next attempt, otherwise it is removed."""
    stage = _staging_path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _make_private(stage)
    opened = os.open(stage / _LOCK, os.O_RDWR | os.O_CREAT | files.OPEN_FLAGS, 0o644)
    try:
        if not locks.acquire(opened):
            raise BadInput(f"another process is fetching {out}", "wait for it, or use another --out")
        yield stage
        shutil.rmtree(stage, ignore_errors=True)
    finally:
        os.close(opened)
    shutil.rmtree(stage, ignore_errors=True)  # Windows removes no open file, such as the lock


def _staging_path(out: Path) -> Path:
    return out.with_name(f".{out.name}.fetching")


def _remove_staging(out: Path) -> None:
    """Removes the staging folder of a fetch that was killed after publishing."""
    if _staging_path(out).exists():
        with suppress(BadInput), _stage(out):  # one in use, or of another user, stays
            pass


def _make_private(stage: Path) -> None:
    """Makes the staging folder; an existing one must be writable by this user only, because its content is removed."""
    with suppress(FileExistsError):
        stage.mkdir()
    status = stage.lstat()
    if not stat.S_ISDIR(status.st_mode) or not owner.is_mine(status) or owner.grants(status, stat.S_IWOTH):
        raise BadInput(f"{stage} is not a folder that only you can write", "remove it, or use another --out")


def _prepare(tree: Path, stage: Path, beside: Mapping[str, bytes], kind: Subset | None) -> Manifest:
    """Removes from the staging folder what is not of this bundle, writes the manifest, and returns it parsed."""
    for path in stage.iterdir():
        if path.name not in (_LOCK, tree.parent.name):
            shutil.rmtree(path, ignore_errors=True)
    tree.mkdir(parents=True, exist_ok=True)
    (tree.parent / _PARTS).mkdir(exist_ok=True)
    for name in UNLISTED_FILES:
        (tree / name).unlink(missing_ok=True)
    for name, raw in {**beside, **({SUBSET_FILE: serde.text(kind).encode()} if kind else {})}.items():
        files.publish(tree / name, raw)
    try:
        manifest = read_manifest(tree)
    except Refused:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    expected = {file.path for file in _wanted(manifest, kind)} | set(UNLISTED_FILES)
    for path in [path for path in tree.rglob("*") if not path.is_dir() or path.is_symlink()]:
        if path.relative_to(tree).as_posix() not in expected:
            path.unlink()
    return manifest


def _check_disk_space(out: Path, wanted: Sequence[File], tree: Path) -> None:
    needed = sum(file.size for file in wanted if not (tree / file.path).exists())
    disk.check(out.parent, needed, f"the rest of {out.name}")


def _is_complete(path: Path, file: File) -> bool:
    """Whether an earlier attempt completed this file; a corrupt one is removed."""
    if not path.exists():
        return False
    try:
        files.verify_file(path, file.size, file.sha256)
    except Refused:
        path.unlink()
        return False
    return True


def _index_files(reuse_from: Sequence[Path]) -> dict[str, list[Path]]:
    """The paths of files on this machine by their digest."""
    known: dict[str, list[Path]] = {}
    for root in reuse_from:
        installed = root / "bundles"
        for folder in sorted(installed.iterdir()) if installed.is_dir() else [root]:
            with suppress(Refused):
                for file in all_files(read_manifest(folder)):
                    known.setdefault(file.sha256, []).append(folder / file.path)
    return known


def _copy_known(file: File, to: Path, known: Mapping[str, Sequence[Path]]) -> bool:
    to.parent.mkdir(parents=True, exist_ok=True)
    for path in known.get(file.sha256, ()):
        with suppress(Refused):
            files.verify_file(path, file.size, file.sha256, to)
            return True
    return False


def _publish(tree: Path, manifest: Manifest, kind: Subset | None, out: Path) -> None:
    """Verifies all files once more, syncs them, and renames the folder to `out`."""
    check_files(tree, manifest, subset.omitted_engines(manifest, kind))
    for folder in [*(path for path in tree.rglob("*") if path.is_dir()), tree]:
        files.sync_folder(folder)
    tree.rename(out)
    files.sync_folder(out.parent)
