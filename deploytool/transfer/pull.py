"""Fetches a bundle into a folder nobody looks at, every byte hashed as it comes, and shows it only when it is whole."""

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
Signed = Callable[[Mapping[str, bytes], str], Mapping[str, str]]  # what a signature beside a manifest names

_LOG = logging.getLogger(__name__)
_TREE, _PARTS, _LOCK = "tree", "parts", "lock"


@dataclass(frozen=True)
class PullResult:
    """A bundle that was fetched: where it is, what it is, how many bytes came and how many were here already."""

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
    """Fetches what a device of this kind needs of a bundle; all of it if `kind` is None.

    `signed` holds the signature and the manifest against a key before anything is parsed or written. `near` are
    bundles, or install roots, whose files need not come again. A fetch that was cut goes on where it was.

    Raises Refused for other bytes than the manifest's, another digest, or another key, Unreachable if it cannot be
    fetched now.
    """
    beside = source.beside()
    found = hashlib.sha256(beside[MANIFEST_FILE]).hexdigest()
    if digest is not None and found != digest:
        raise Refused(f"it is another bundle: its digest is {found}", "check the digest, or the address")
    names = signed(beside, "the bundle") if signed else None
    if out.exists() or out.is_symlink():
        told = _same(out, found, kind, names, beside)
        _sweep(out)
        return told
    with _stage(out) as stage:
        tree = stage / found / _TREE
        manifest = _begin(tree, stage, beside, kind)
        try:
            source.agree(manifest)
            _agree(names, manifest)
        except Refused:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        wanted = _wanted(manifest, kind)
        _room(out, wanted, tree)
        fetched, here, known = 0, 0, _known(reuse_from)
        say(f"{len(wanted)} files, {disk.size(sum(file.size for file in wanted))}")
        for file in wanted:
            if _there(tree / file.path, file) or _copied(file, tree / file.path, known):
                here += file.size
                continue
            came = download.fetch(source, file, tree / file.path, stage / found / _PARTS)
            fetched, here = fetched + came, here + max(file.size - came, 0)
            _LOG.debug("%s: %s", file.path, disk.size(file.size))
            known.setdefault(file.sha256, []).append(tree / file.path)
        _show(tree, manifest, kind, out)
    return _told(out, found, manifest, kind, fetched, here)


def _told(out: Path, digest: str, manifest: Manifest, kind: Subset | None, fetched: int, here: int) -> PullResult:
    left_out = len(subset.omitted_engines(manifest, kind))
    number = len(all_files(manifest)) - left_out
    return PullResult(str(out), manifest.name, digest, manifest.sequence, number, left_out, fetched, here)


def _agree(names: Mapping[str, str] | None, manifest: Manifest) -> None:
    """Raises Refused unless every file of the manifest was signed with the digest that the manifest gives it."""
    for file in all_files(manifest):
        if names is not None and names.get(file.path) != file.sha256:
            raise Refused(f"{file.path} is not signed with the bytes that the manifest names", files.AGAIN)


def _same(
    out: Path, digest: str, kind: Subset | None, names: Mapping[str, str] | None, beside: Mapping[str, bytes]
) -> PullResult:
    """What lies there already, if it is the very same; a signature that was asked for and holds comes to it."""
    try:
        manifest, there = read_manifest(out), subset.read(out)
        same = manifest_digest(out) == digest and there == kind
    except Refused:
        same = False
    if not same:
        raise BadInput(
            f"{out} is there already", "choose another folder with --out, and --reuse-from for what it holds"
        )
    check_files(out, manifest, subset.omitted_engines(manifest, kind))
    _agree(names, manifest)
    if names is not None:  # the very bundle may have come before without its signature
        files.sweep(out.parent, f".{SIGNATURE_FILE}.*{files.UNFINISHED}")
        files.publish(out / SIGNATURE_FILE, beside[SIGNATURE_FILE], out.parent)
    return _told(out, digest, manifest, kind, 0, sum(file.size for file in _wanted(manifest, kind)))


def _wanted(manifest: Manifest, kind: Subset | None) -> tuple[File, ...]:
    others = subset.omitted_engines(manifest, kind)
    return tuple(file for file in all_files(manifest) if file.path not in others)


@contextmanager
def _stage(out: Path) -> Iterator[Path]:
    """A hidden folder beside the one that is to be; it stays if the work is cut, and goes when it is done."""
    stage = _beside(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _ours(stage)
    opened = os.open(stage / _LOCK, os.O_RDWR | os.O_CREAT | files.OPEN_FLAGS, 0o644)
    try:
        if not locks.acquire(opened):
            raise BadInput(f"somebody else is fetching {out}", "wait for it, or use another --out")
        yield stage
        shutil.rmtree(stage, ignore_errors=True)
    finally:
        os.close(opened)
    shutil.rmtree(stage, ignore_errors=True)  # Windows lets nobody remove a file that is open


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.fetching")


def _sweep(out: Path) -> None:
    """Takes away the staging folder of a fetch that was killed when all but that was done."""
    if _beside(out).exists():
        with suppress(BadInput), _stage(out):  # somebody else's stays
            pass


def _ours(stage: Path) -> None:
    """Makes the staging folder; one that is there must be a folder of our own, for all that is in it may go."""
    with suppress(FileExistsError):
        stage.mkdir()
    found = stage.lstat()
    if not stat.S_ISDIR(found.st_mode) or not owner.is_mine(found) or owner.grants(found, stat.S_IWOTH):
        raise BadInput(f"{stage} is not a folder that only you can write", "remove it, or use another --out")


def _begin(tree: Path, stage: Path, beside: Mapping[str, bytes], kind: Subset | None) -> Manifest:
    """The staging folder with nothing in it that is not of this bundle, and its manifest, parsed."""
    for left in stage.iterdir():
        if left.name not in (_LOCK, tree.parent.name):
            shutil.rmtree(left, ignore_errors=True)
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


def _room(out: Path, wanted: Sequence[File], tree: Path) -> None:
    needed = sum(file.size for file in wanted if not (tree / file.path).exists())
    disk.check(out.parent, needed, f"the rest of {out.name}")


def _there(path: Path, file: File) -> bool:
    """Whether an earlier try left this file; it may have been spoilt since."""
    if not path.exists():
        return False
    try:
        files.verify_file(path, file.size, file.sha256)
    except Refused:
        path.unlink()
        return False
    return True


def _known(reuse_from: Sequence[Path]) -> dict[str, list[Path]]:
    """Where files lie on this machine, by their digest."""
    known: dict[str, list[Path]] = {}
    for root in reuse_from:
        installed = root / "bundles"
        for folder in sorted(installed.iterdir()) if installed.is_dir() else [root]:
            with suppress(Refused):
                for file in all_files(read_manifest(folder)):
                    known.setdefault(file.sha256, []).append(folder / file.path)
    return known


def _copied(file: File, to: Path, known: Mapping[str, Sequence[Path]]) -> bool:
    to.parent.mkdir(parents=True, exist_ok=True)
    for path in known.get(file.sha256, ()):
        with suppress(Refused):
            files.verify_file(path, file.size, file.sha256, to)
            return True
    return False


def _show(tree: Path, manifest: Manifest, kind: Subset | None, out: Path) -> None:
    """Checks the whole once more, and renames it into its place."""
    check_files(tree, manifest, subset.omitted_engines(manifest, kind))
    for folder in [*(path for path in tree.rglob("*") if path.is_dir()), tree]:
        files.sync_folder(folder)
    tree.rename(out)
    files.sync_folder(out.parent)
