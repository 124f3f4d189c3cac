"""The files of a sweep on a worker that does not see the client's disk: they come and go by digest, in pieces.

The worker has a mirror of the client's disk, with the files that its jobs need at the same paths below one folder. Each
file is kept once, by its digest, and linked from there.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.host import files, swap
from deploytool.pipeline import runner
from deploytool.pipeline.export_options import INPUT_PATHS
from deploytool.serde import Json
from deploytool.sweeps import trim
from deploytool.sweeps.job import MAX_BYTES, FileEntry, Job

PIECE_BYTES = 3 << 20  # of a file; 4 MiB as text
ALL = "*"  # as a missing digest: the job does not list its files yet
_CACHE = Path(".cache", "deploytool", "sweeps")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATHS = (*INPUT_PATHS, "metric")  # the options of an export that are paths


@dataclass(frozen=True)
class Place:
    """Where a job runs: the folder of the sweep, the working folder, the model and the options with paths that exist.

    `is_local` says that the client does not see these folders. `missing` are digests of files to get first.
    """

    root: Path
    cwd: Path
    model: str
    options: Mapping[str, Json]
    is_local: bool = False
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A part of a file from `offset` on, as base64; `size` is that of the whole file in bytes."""

    digest: str
    offset: int
    size: int
    data: str = ""


@dataclass(frozen=True)
class Request:
    """A request for a part of a file of this worker."""

    path: str
    offset: int


def cache() -> Path:
    """The folder of this user for the files of sweeps."""
    return Path.home() / _CACHE


def mirror(job: Job) -> str:
    """The name of the mirror in which a job runs."""
    return serde.digest(job.root)[:16]


def prepare(job: Job) -> Place:
    """The place of a job in the mirror, with every file that it needs, or with the digests of those that it lacks."""
    disk = cache() / trim.DISK / mirror(job)
    place = Place(_below(disk, job.root), _below(disk, job.cwd), job.model, job.options, is_local=True)
    if job.inputs is None:
        return replace(place, missing=(ALL,))
    missing = tuple(sorted({entry.digest for entry in job.inputs if not _kept(entry.digest).is_file()}))
    if missing:
        return replace(place, missing=missing)
    place.cwd.mkdir(parents=True, exist_ok=True)
    for entry in job.inputs:
        trim.touch(_kept(entry.digest))
        _link(_kept(entry.digest), _below(disk, os.path.join(job.cwd, entry.path)))  # noqa: PTH118  # `..` stays
    options = {name: _moved(disk, value) if name in _PATHS else value for name, value in job.options.items()}
    return replace(place, model=str(_moved(disk, job.model)), options=options)


def made(place: Place, folder: str) -> tuple[FileEntry, ...]:
    """Every file of a run, by its path in the folder of the run; the receipts know most digests."""
    home = place.root / folder
    known = {
        f"{directory.name}/{name}": digest
        for directory, receipt in runner.stage_directories(home)
        for name, digest in receipt.files.items()
    }
    names = [path.relative_to(home).as_posix() for path in sorted(home.rglob("*")) if path.is_file()]
    return tuple(entry(home, name, known.get(name, "")) for name in names if not name.startswith("."))


def entry(home: Path, name: str, digest: str = "") -> FileEntry:
    """A file of a folder as an entry."""
    path = home / name
    return FileEntry(name, digest or serde.file_digest(path), path.stat().st_size)


def put(text: str) -> str:
    """Stores a piece of a file; returns the bytes that are there, or an empty text once the file is whole.

    Pieces come in order. Raises BadInput if the digest of the whole file differs.
    """
    piece = serde.decode(Piece, serde.loads(text, MAX_BYTES))
    target = _kept(piece.digest)
    if target.is_file():
        return ""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_suffix(".part")
    raw = base64.b64decode(piece.data, validate=True)
    with partial.open("r+b" if piece.offset and partial.exists() else "wb") as file:
        if file.seek(0, os.SEEK_END) < piece.offset:
            return str(file.tell())
        file.seek(piece.offset)
        file.write(raw)
        file.truncate()
        end = file.tell()
    if end < piece.size:
        return str(end)
    if serde.file_digest(partial) != piece.digest:
        partial.unlink()
        raise BadInput(f"file {piece.digest[:12]} arrived with other bytes", "run the same command again")
    partial.replace(target)
    return ""


def get(text: str) -> str:
    """A piece of a file of this worker, as text."""
    request = serde.decode(Request, serde.loads(text, MAX_BYTES))
    with Path(request.path).open("rb") as file:
        file.seek(request.offset)
        raw = file.read(PIECE_BYTES)
        size = os.fstat(file.fileno()).st_size
    piece = Piece(hashlib.sha256(raw).hexdigest(), request.offset, size, base64.b64encode(raw).decode())
    return serde.text(piece)


def forget(text: str) -> str:
    """Removes the folder of a run that the client has fetched, if it is in the mirror."""
    folder = Path(text)
    if folder.is_relative_to(cache() / trim.DISK):
        files.remove(folder)
    return ""


def _kept(digest: str) -> Path:
    if not _DIGEST.fullmatch(digest):
        raise BadInput("a file is named by something else than its digest", "use the same deploytool on every machine")
    return cache() / trim.FILES / digest


def _below(disk: Path, path: str) -> Path:
    """The place of an absolute path of the client in the mirror."""
    return disk / os.path.abspath(path).lstrip("/")  # noqa: PTH100  # links of the client are unknown here


def _moved(disk: Path, value: Json) -> Json:
    """A path in the mirror, if it is absolute; a relative one stays, and begins in the mirrored working folder."""
    return str(_below(disk, value)) if isinstance(value, str) and value.startswith("/") else value


def _link(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    swap.link(source, target)
