"""The files that the page of a run is made from, and their digest; imports little, as every export asks for it."""

from __future__ import annotations

from pathlib import Path

from deploytool import serde
from deploytool.benchmark import result
from deploytool.errors import BadInput
from deploytool.results import blame, receipt
from deploytool.results.artifact import Kind
from deploytool.run_folder import publish
from deploytool.spec import Stage

DEVICES = "devices"  # the folder of the results from devices


def find(home: Path) -> Path:
    """The path of report.json in a run's folder, or in another folder that has one; raises BadInput if missing."""
    publish.recover(home)
    for path in (home / Stage.VALIDATE / Kind.REPORT.value, home / Kind.REPORT.value):
        if path.is_file():
            return path
    raise BadInput(f"{home} has no report.json", "name a folder that `deploytool export` made")


def of_devices(home: Path) -> tuple[Path, ...]:
    """The files of all results from devices that are stored beside the run."""
    return tuple(sorted((home / DEVICES).glob("*.json")))


def digest(home: Path, final: Path | None = None) -> str:
    """A SHA-256 of all files that the page of a run is made from.

    `final` is the path that the folder will be moved to, if it is not there yet. Raises BadInput if there is no run.
    """
    optional = (home / blame.FILE, home / result.FILE, *of_devices(home))
    others = (*optional, *home.glob(f"*/{receipt.FILE}"))
    paths = [path for path in (find(home), *sorted(others)) if path.is_file()]
    digests = {path.relative_to(home).as_posix(): serde.file_digest(path) for path in paths}
    return serde.digest(str(final or home), digests)
