"""A receipt proves that a room holds what its key promises: it is written last, and read before anything is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploytool import serde
from deploytool.results.artifact import Kind, Notes
from deploytool.spec import Stage

FILE = "receipt.json"


@dataclass(frozen=True)
class Receipt:
    """What a stage made in a room: from which parents, of which bytes, with which versions, in how many seconds.

    `weights` is the SHA-256 of the weights it all began with.
    """

    kind: Kind
    made_by: Stage
    key: str
    parents: Mapping[str, str]
    weights: str | None
    files: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: float
    notes: Notes


def write(room: Path, receipt: Receipt) -> None:
    """Seals the room."""
    (room / FILE).write_text(serde.text(receipt), encoding="utf-8")


def read(room: Path) -> Receipt | None:
    """The receipt of a room, or None where there is none that can be read."""
    try:
        return serde.read(Receipt, room / FILE)
    except (OSError, serde.Malformed):
        return None


def proves(room: Path, receipt: Receipt) -> bool:
    """Whether every file of the room is there with the bytes it was sealed with."""
    return all(
        (room / name).is_file() and serde.file_digest(room / name) == digest for name, digest in receipt.files.items()
    )


def digests(room: Path) -> dict[str, str]:
    """The SHA-256 of every file in a room and in its folders, its receipt aside."""
    inside = [path for path in sorted(room.rglob("*")) if path.is_file() and path != room / FILE]
    return {path.relative_to(room).as_posix(): serde.file_digest(path) for path in inside}
