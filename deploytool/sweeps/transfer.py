"""Sends files to workers that do not see the client's disk, and fetches what they made, in pieces and by digest."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deploytool import serde
from deploytool.errors import Unreachable
from deploytool.host import files, swap
from deploytool.pipeline import runner
from deploytool.results import receipt as receipts
from deploytool.serde import Json
from deploytool.sweeps import keys, local_files, serial
from deploytool.sweeps.job import MAX_BYTES, Answer, FileEntry
from deploytool.sweeps.local_files import PIECE_BYTES, Piece, Request

Call = Callable[[str, Callable[[str], str], str], str]  # worker, function, text: what it returns
_AGAIN = "run the same command again"


def inputs(model: str, options: Mapping[str, Json]) -> tuple[FileEntry, ...]:
    """The files of the user that an export reads, by the path that its options or its model have."""
    paths = [file for path in keys.input_paths(model, serial.decode(options)) for file in _files(path)]
    return tuple(FileEntry(str(path), serde.file_digest(path), path.stat().st_size) for path in dict.fromkeys(paths))


def shared_files(home: Path) -> tuple[FileEntry, ...]:
    """The files of shared stages, by their absolute paths; the receipts know their digests."""
    entries = []
    for directory, receipt in runner.stage_directories(home):
        for name, digest in {**receipt.files, receipts.FILE: ""}.items():
            found = local_files.entry(directory, name, digest)
            entries.append(FileEntry(str((directory / name).absolute()), found.digest, found.size))
    return tuple(entries)


def send(call: Call, worker: str, wanted: Mapping[str, Path]) -> None:
    """Sends files to a worker, by their digests."""
    for digest, path in wanted.items():
        size, offset, steps = path.stat().st_size, 0, 0
        with path.open("rb") as file:
            while True:
                file.seek(offset)
                data = base64.b64encode(file.read(PIECE_BYTES)).decode()
                rest = call(worker, local_files.put, serde.text(Piece(digest, offset, size, data)))
                steps += 1
                if not rest:
                    break
                offset = int(rest)
                if offset >= size or steps > 2 * (size // PIECE_BYTES + 2):
                    raise Unreachable(f"{worker} does not keep {path}", "check that its disk is not full")


def fetch(call: Call, answer: Answer, home: Path, incoming: Path) -> None:
    """Fetches a run that a worker made, verifies every file, and puts it in place as a whole.

    Raises Unreachable if the worker is gone or the bytes differ.
    """
    files.remove(incoming)
    for entry in answer.files:
        _fetch_file(call, answer.worker, f"{answer.folder}/{entry.path}", entry, incoming / entry.path)
    files.remove(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    incoming.rename(home)
    swap.flush_names(home.parent)


def _fetch_file(call: Call, worker: str, source: str, entry: FileEntry, target: Path) -> None:
    if Path(entry.path).is_absolute() or ".." in Path(entry.path).parts:
        raise Unreachable(f"{worker} names a file outside of its run: {entry.path}", "do not use this worker")
    target.parent.mkdir(parents=True, exist_ok=True)
    total = hashlib.sha256()
    with target.open("wb") as file:
        while file.tell() < entry.size or not entry.size:
            text = call(worker, local_files.get, serde.text(Request(source, file.tell())))
            piece = serde.decode(Piece, serde.loads(text, MAX_BYTES))
            raw = base64.b64decode(piece.data, validate=True)
            total.update(raw)
            file.write(raw)
            if not raw:
                break
        file.flush()
        os.fsync(file.fileno())
    if total.hexdigest() != entry.digest:
        raise Unreachable(f"{entry.path} came from {worker} with other bytes", _AGAIN)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())
    else:
        yield path
