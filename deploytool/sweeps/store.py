"""The folder of a sweep: its lock, the record of every finished cell, and sweep.json."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.host import files, locks
from deploytool.loading import code_files, factory
from deploytool.pipeline import runner
from deploytool.results import sweep as results
from deploytool.results.sweep import CellResult, Sweep

_NONCE = "nonce"
_SCHEMA = "deploytool.cell/1"


@dataclass(frozen=True)
class Record:
    """A cell that was made: the digest of what its result depends on, the result, and the state of every file.

    `states` has the size in bytes and the time of modification in nanoseconds of each file, by its path.
    """

    schema: str
    key: str
    result: CellResult
    states: Mapping[str, tuple[int, int]]


@contextmanager
def locked(out: Path) -> Iterator[str]:
    """The only right to work in the folder of a sweep; yields the nonce by which a worker recognises the folder.

    Raises BadInput if another sweep works there, or if the folder cannot be written.
    """
    own = out / results.OWN
    try:
        own.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(own / results.LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}", "choose another folder with --out") from error
    try:
        if not locks.acquire(descriptor):
            raise BadInput(
                f"another sweep works in {out}", "wait until it is done, or choose another folder with --out"
            )
        nonce = uuid.uuid4().hex
        files.publish(own / _NONCE, nonce.encode())
        yield nonce
    finally:
        os.close(descriptor)


def is_shared(out: Path, nonce: str) -> bool:
    """Whether this machine sees the folder of the sweep that has this nonce."""
    with suppress(OSError):
        return (out / results.OWN / _NONCE).read_text(encoding="ascii") == nonce
    return False


def finished(home: Path, key: str) -> CellResult | None:
    """The result of a cell that an earlier command made, if nothing that it depends on has changed since.

    Files are compared by size and time, and by their digests where the time differs, as after a copy.
    """
    try:
        record = serde.read(Record, home / results.CELL_FILE)
    except (OSError, serde.Malformed):
        return None
    if record.schema != _SCHEMA or record.key != key or not record.result.finished:
        return None
    are_same = all(_is_same(home, name, state, record.result.digests) for name, state in record.states.items())
    return record.result if are_same and _are_sources_same(home, record.result.cell.model) else None


def _is_same(home: Path, name: str, state: tuple[int, int], digests: Mapping[str, str]) -> bool:
    try:
        status = (home / name).stat()
        if status.st_size != state[0]:
            return False
        return status.st_mtime_ns == state[1] or serde.file_digest(home / name) == digests.get(name)
    except OSError:
        return False


def _are_sources_same(home: Path, model: str) -> bool:
    """Whether the files that the code of the model read are the same; the zoo's are part of the key."""
    known = runner.sources(home)
    if not known or factory.is_zoo(model) or ":" not in model:
        return True
    try:
        return code_files.current_digests(known, factory.project_folder(model)) == known
    except BadInput:
        return False


def write(home: Path, key: str, result: CellResult) -> None:
    """Records a finished cell beside its run."""
    home.mkdir(parents=True, exist_ok=True)
    states = {}
    for name in result.digests:
        status = (home / name).stat()
        states[name] = (status.st_size, status.st_mtime_ns)
    text = serde.text(Record(_SCHEMA, key, result, states))
    files.publish(home / results.CELL_FILE, text.encode())


def digests(home: Path) -> tuple[dict[str, str], dict[str, int]]:
    """The SHA-256 and the bytes of every file that the stages of a run made, by their paths in its folder."""
    sums: dict[str, str] = {}
    for directory, receipt in runner.stage_directories(home):
        sums |= {f"{directory.name}/{name}": digest for name, digest in receipt.files.items()}
    return sums, {name: (home / name).stat().st_size for name in sums}


def incoming(out: Path, key: str) -> Path:
    """Where a run is put together that comes from another machine."""
    return out / results.OWN / f"incoming-{key[:32]}"


def write_sweep(out: Path, sweep: Sweep) -> None:
    """Writes sweep.json."""
    files.publish(out / results.FILE, serde.text(sweep).encode())
