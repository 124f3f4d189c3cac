"""What a power cut leaves: every byte is on the disk before its name is seen, and the name before the command ends."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploytool.bundle.manifest import read_manifest
from deploytool.cli import pack
from deploytool.device import install
from deploytool.host import files, swap
from deploytool.results import receipt
from deploytool.results.artifact import Kind
from deploytool.results.receipt import Receipt
from deploytool.run_folder import publish, staging
from deploytool.spec import Stage
from deploytool.transfer import oci_archive, ssh_receiver
from tests.transfer import small
from tests.transfer.trips import pulled


class Disk:
    """Which files and folders were flushed, and which names were not since they were given."""

    def __init__(self, above: Path) -> None:
        self.above, self.flushed, self.names = above, set[int](), dict[int, str]()
        self.shown: list[str] = []

    def flush(self, opened: int) -> None:
        found = os.fstat(opened).st_ino
        self.flushed.add(found)
        self.names.pop(found, None)

    def show(self, source: Path, name: Path) -> None:
        """Holds a rename to a name that people see against what was flushed before."""
        if not name.is_relative_to(self.above) or any(map(_hidden, name.relative_to(self.above).parts)):
            return
        inside = [source, *source.rglob("*")] if source.is_dir() else [source]
        missing = [path.name for path in inside if path.stat().st_ino not in self.flushed]
        assert not missing, f"{name} is shown before {missing} are on the disk"
        self.names[name.parent.stat().st_ino] = str(name)
        self.shown.append(name.relative_to(self.above).as_posix())


def _hidden(part: str) -> bool:
    return part[0] == "." and part != ".publishing"  # from which any later command goes on


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(tmp_path)

    def watched(name: str, do: Callable[..., None]) -> None:
        usual: Any = getattr(os, name)

        def through(*given: Any, **named: Any) -> Any:
            do(*given)
            return usual(*given, **named)

        monkeypatch.setattr(os, name, through)

    watched("fsync", made.flush)
    for name in ("rename", "replace"):
        watched(name, lambda source, to: made.show(Path(source), Path(to)))
    usual = swap.exchange

    def exchanged(one: Path, other: Path) -> bool:
        made.show(one, other)
        return usual(one, other)

    monkeypatch.setattr(swap, "exchange", exchanged)
    yield made
    assert not made.names, f"{made.names} are not on the disk when all is done"


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return small.made(tmp_path / "in", 1)


def test_a_file(disk: Disk, tmp_path: Path) -> None:
    files.publish(tmp_path / "file", b"new")
    assert disk.shown == ["file"]


def test_a_bundle_that_is_pulled(disk: Disk, tmp_path: Path, content: Path) -> None:
    pulled(str(content), tmp_path / "out")
    assert disk.shown == ["out"]


def test_a_bundle_that_is_near_already(disk: Disk, tmp_path: Path, content: Path) -> None:
    pulled(str(content), tmp_path / "out", reuse_from=(content,))
    assert disk.shown == ["out"]


def test_a_bundle_in_one_file(disk: Disk, tmp_path: Path, content: Path) -> None:
    oci_archive.write(content, read_manifest(content), tmp_path / "out.tar")
    assert disk.shown == ["out.tar"]


def test_a_bundle_that_is_installed(disk: Disk, tmp_path: Path, content: Path) -> None:
    digest = install.install(content, tmp_path / "root", lambda checked: None).current
    assert disk.shown == [f"root/bundles/{digest}", "root/current"]


def test_a_bundle_that_is_packed_into_another_folder(disk: Disk, tmp_path: Path, content: Path) -> None:
    pack._copy(content, tmp_path / "out")
    assert disk.shown == ["out"]


def test_a_bundle_that_a_device_receives(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"{}\n"
    digest, name = hashlib.sha256(raw).hexdigest(), hashlib.sha256(b"x").hexdigest()
    beside = {"manifest.json": "e30K"}
    request = {"root": str(tmp_path / "root"), "digest": digest, "files": [["a/b", 1, name], ["c", 1, name]]}
    monkeypatch.setattr(ssh_receiver, "_answer", lambda what: None)
    ssh_receiver._receive({**request, "beside": beside, "key": "", "install": False}, io.BytesIO(b"x"))
    assert disk.shown == [f"root/received/{digest}"]


@pytest.mark.parametrize("beside", [True, False])
def test_a_run(disk: Disk, tmp_path: Path, beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not beside:  # as where the folder is a mount point
        monkeypatch.setattr(publish, "is_exchangeable", lambda real: False)
    with staging.open_run(tmp_path / "run") as staged:
        with staged.stage_directory("golden") as made:
            (made / "golden.npz").write_bytes(b"x")
            known = receipt.digests(made)
            receipt.write(made, Receipt(Kind.GOLDEN, Stage.GOLDEN, "key", {}, None, known, {}, 0.0, {}))
        assert disk.shown == []
        staged.publish()
    assert disk.shown == (["run"] if beside else ["run/.publishing", "run/golden"])
