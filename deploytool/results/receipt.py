"""Receipts: a stage writes its receipt last, and a later run reuses the stage directory if the receipt matches."""

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
    """What a stage made: key, keys of its parents by stage, SHA-256 of every file, versions, duration and notes.

    `weights` is the SHA-256 of the weights of the source model.
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


def write(directory: Path, receipt: Receipt) -> None:
    """Writes the receipt into a stage directory."""
    (directory / FILE).write_text(serde.text(receipt), encoding="utf-8")


def read(directory: Path) -> Receipt | None:
    """The receipt in a stage directory; None if it is missing or unreadable."""
    try:
        return serde.read(Receipt, directory / FILE)
    except (OSError, serde.Malformed):
        return None


def matches(directory: Path, receipt: Receipt) -> bool:
    """Whether every file of the receipt exists in the stage directory with the recorded SHA-256."""
    return all(
        (directory / name).is_file() and serde.file_digest(directory / name) == digest
        for name, digest in receipt.files.items()
    )


def digests(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file in a stage directory and its subfolders, except the receipt, by relative path."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file() and path != directory / FILE]
    return {path.relative_to(directory).as_posix(): serde.file_digest(path) for path in paths}
