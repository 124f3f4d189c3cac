"""Safety against power cuts: files are synced before they are renamed, and folders before the command ends."""

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
from tests.transfer.trips import pull_bundle


class Disk:
    """Records which files and folders were synced, and which renames were not yet synced."""

    def __init__(self, root: Path) -> None:
        self.root, self.flushed, self.names = root, set[int](), dict[int, str]()
        self.renames: list[str] = []

    def flush(self, descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        self.flushed.add(inode)
        self.names.pop(inode, None)

    def show(self, source: Path, name: Path) -> None:
        """Checks that everything below a renamed path was synced, unless the new name is hidden."""
        if not name.is_relative_to(self.root) or any(map(_hidden, name.relative_to(self.root).parts)):
            return
        paths = [source, *source.rglob("*")] if source.is_dir() else [source]
        unsynced = [path.name for path in paths if path.stat().st_ino not in self.flushed]
        assert not unsynced, f"{name} is renamed before {unsynced} are synced"
        self.names[name.parent.stat().st_ino] = str(name)
        self.renames.append(name.relative_to(self.root).as_posix())


def _hidden(part: str) -> bool:
    return part[0] == "." and part != ".publishing"  # a later command continues from it


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk_state = Disk(tmp_path)

    def watch(name: str, do: Callable[..., None]) -> None:
        original: Any = getattr(os, name)

        def call_both(*arguments: Any, **named: Any) -> Any:
            do(*arguments)
            return original(*arguments, **named)

        monkeypatch.setattr(os, name, call_both)

    watch("fsync", disk_state.flush)
    for name in ("rename", "replace"):
        watch(name, lambda source, to: disk_state.show(Path(source), Path(to)))
    original = swap.exchange

    def exchange(one: Path, other: Path) -> bool:
        disk_state.show(one, other)
        return original(one, other)

    monkeypatch.setattr(swap, "exchange", exchange)
    yield disk_state
    assert not disk_state.names, f"{disk_state.names} are not synced at the end"


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return small.make_bundle(tmp_path / "in", 1)


def test_a_file(disk: Disk, tmp_path: Path) -> None:
    files.publish(tmp_path / "file", b"new")
    assert disk.renames == ["file"]


def test_a_bundle_that_is_pulled(disk: Disk, tmp_path: Path, content: Path) -> None:
    pull_bundle(str(content), tmp_path / "out")
    assert disk.renames == ["out"]


def test_a_bundle_that_is_near_already(disk: Disk, tmp_path: Path, content: Path) -> None:
    pull_bundle(str(content), tmp_path / "out", reuse_from=(content,))
    assert disk.renames == ["out"]


def test_a_bundle_in_one_file(disk: Disk, tmp_path: Path, content: Path) -> None:
    oci_archive.write(content, read_manifest(content), tmp_path / "out.tar")
    assert disk.renames == ["out.tar"]


def test_a_bundle_that_is_installed(disk: Disk, tmp_path: Path, content: Path) -> None:
    digest = install.install(content, tmp_path / "root", lambda checked: None).current
    assert disk.renames == [f"root/bundles/{digest}", "root/current"]


def test_a_bundle_that_is_packed_into_another_folder(disk: Disk, tmp_path: Path, content: Path) -> None:
    pack._copy(content, tmp_path / "out")
    assert disk.renames == ["out"]


def test_a_bundle_that_a_device_receives(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"{}\n"
    digest, name = hashlib.sha256(raw).hexdigest(), hashlib.sha256(b"x").hexdigest()
    beside = {"manifest.json": "e30K"}
    request = {"root": str(tmp_path / "root"), "digest": digest, "files": [["a/b", 1, name], ["c", 1, name]]}
    monkeypatch.setattr(ssh_receiver, "_answer", lambda what: None)
    ssh_receiver._receive({**request, "beside": beside, "key": "", "install": False}, io.BytesIO(b"x"))
    assert disk.renames == [f"root/received/{digest}"]


@pytest.mark.parametrize("beside", [True, False])
def test_a_run(disk: Disk, tmp_path: Path, beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not beside:  # as for a mount point
        monkeypatch.setattr(publish, "is_exchangeable", lambda real: False)
    with staging.open_run(tmp_path / "run") as staged:
        with staged.stage_directory("golden") as disk_state:
            (disk_state / "golden.npz").write_bytes(b"x")
            digests = receipt.digests(disk_state)
            receipt.write(disk_state, Receipt(Kind.GOLDEN, Stage.GOLDEN, "key", {}, None, digests, {}, 0.0, {}))
        assert disk.renames == []
        staged.publish()
    assert disk.renames == (["run"] if beside else ["run/.publishing", "run/golden"])
