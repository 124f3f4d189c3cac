"""A disk that gets full, or a limit on files, while a bundle is packed into one file, fetched, sent or installed."""

from __future__ import annotations

import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploytool.bundle.manifest import all_files, read_manifest
from deploytool.device import install
from deploytool.errors import ResourceExhausted
from deploytool.transfer import oci_archive, pull, sources, ssh_receiver
from deploytool.transfer.addresses import Folder
from tests.transfer import small

_SIZE = 30_000
_USAGE = namedtuple("_USAGE", "total used free")  # as shutil gives it


@contextmanager
def limited() -> Iterator[None]:
    """No file may grow beyond half of the bundle's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_SIZE // 2, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return small.made(tmp_path / "in", 1, _SIZE)


def _packed(folder: Path, out: Path) -> None:
    oci_archive.write(folder, read_manifest(folder), out)


def _pulled(folder: Path, out: Path) -> None:
    pull.pull(sources._FolderSource(Folder(folder).path), out, None, say=lambda line: None)


def _installed(folder: Path, out: Path) -> None:
    install.install(folder, out, lambda papers: None)


_WORK: list[Callable[[Path, Path], None]] = [_packed, _pulled, _installed]


@pytest.mark.parametrize("work", _WORK)
def test_a_file_that_grows_too_large_is_named_and_the_next_try_is_whole(
    made: Path, tmp_path: Path, work: Callable[[Path, Path], None]
) -> None:
    out = tmp_path / "home" / "out"
    with (
        limited(),
        pytest.raises(ResourceExhausted, match=r"cannot be written: File too large, and it takes [\d.]+ KB"),
    ):
        work(made, out)
    assert not out.exists() or {path.name for path in out.iterdir()} <= {".lock", "bundles"}
    work(made, out)
    assert {path.name for path in out.parent.iterdir()} == {"out"}


@pytest.mark.parametrize("work", _WORK)
def test_room_is_asked_for_before_the_work(
    made: Path, tmp_path: Path, work: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(file.size for file in all_files(read_manifest(made)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _USAGE(10**9, 0, size - 1))
    with pytest.raises(ResourceExhausted, match=r"free, and .* takes [\d.]+ KB"):
        work(made, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.onnx")) if (tmp_path / "out").is_dir() else True
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _USAGE(10**9, 0, 2 * size))
    work(made, tmp_path / "out")


def test_an_install_that_fails_for_want_of_room_leaves_what_was_there(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    install.install(small.made(tmp_path / "old", 2, 300), root, lambda papers: None)
    before = install.read_pointer(root)
    with limited(), pytest.raises(ResourceExhausted):
        install.install(made, root, lambda papers: None)
    assert install.read_pointer(root) == before
    assert not [path for path in root.iterdir() if path.name.startswith(".staging-")]


def test_the_receiver_asks_for_room_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _USAGE(10**9, 0, 10_000_000))
    with pytest.raises(ssh_receiver.Failure, match=r"has 10 MB free, .* take 20 MB"):
        ssh_receiver._gather(tmp_path, tmp_path, {"0" * 64: 20_000_000}, None)  # type: ignore[arg-type]  # nothing is read
