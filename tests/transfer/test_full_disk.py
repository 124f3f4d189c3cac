"""A full disk, or a limit on the size of files, while a bundle is packed into one file, pulled, sent or installed."""

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
_USAGE = namedtuple("_USAGE", "total used free")  # the result of shutil.disk_usage


@contextmanager
def limited() -> Iterator[None]:
    """Limits files to half the size of those in the bundle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_SIZE // 2, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small.make_bundle(tmp_path / "in", 1, _SIZE)


def _pack(folder: Path, out: Path) -> None:
    oci_archive.write(folder, read_manifest(folder), out)


def _pull(folder: Path, out: Path) -> None:
    pull.pull(sources._FolderSource(Folder(folder).path), out, None, say=lambda line: None)


def _install(folder: Path, out: Path) -> None:
    install.install(folder, out, lambda checked: None)


_OPERATIONS: list[Callable[[Path, Path], None]] = [_pack, _pull, _install]


@pytest.mark.parametrize("operation", _OPERATIONS)
def test_the_error_names_a_file_that_grows_too_large_and_a_retry_succeeds(
    bundle: Path, tmp_path: Path, operation: Callable[[Path, Path], None]
) -> None:
    out = tmp_path / "home" / "out"
    with (
        limited(),
        pytest.raises(ResourceExhausted, match=r"cannot be written: File too large, and it takes [\d.]+ KB"),
    ):
        operation(bundle, out)
    assert not out.exists() or {path.name for path in out.iterdir()} <= {".lock", "bundles"}
    operation(bundle, out)
    assert {path.name for path in out.parent.iterdir()} == {"out"}


@pytest.mark.parametrize("operation", _OPERATIONS)
def test_free_space_is_checked_first(
    bundle: Path, tmp_path: Path, operation: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(file.size for file in all_files(read_manifest(bundle)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _USAGE(10**9, 0, size - 1))
    with pytest.raises(ResourceExhausted, match=r"free, and .* takes [\d.]+ KB"):
        operation(bundle, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.onnx")) if (tmp_path / "out").is_dir() else True
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _USAGE(10**9, 0, 2 * size))
    operation(bundle, tmp_path / "out")


def test_an_install_that_fails_on_a_full_disk_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    install.install(small.make_bundle(tmp_path / "old", 2, 300), root, lambda checked: None)
    before = install.read_pointer(root)
    with limited(), pytest.raises(ResourceExhausted):
        install.install(bundle, root, lambda checked: None)
    assert install.read_pointer(root) == before
    assert not [path for path in root.iterdir() if path.name.startswith(".staging-")]


def test_the_receiver_checks_free_space_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _USAGE(10**9, 0, 10_000_000))
    with pytest.raises(ssh_receiver.Failure, match=r"has 10 MB free, .* take 20 MB"):
        ssh_receiver._gather(tmp_path, tmp_path, {"0" * 64: 20_000_000}, None)  # type: ignore[arg-type]  # no bytes are read
