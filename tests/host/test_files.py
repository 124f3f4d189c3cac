from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path

import pytest

from deploytool.errors import Refused, ResourceExhausted
from deploytool.host import files


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_listing_includes_everything_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("b")
    (tmp_path / "out").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    modes = dict(files.listing(tmp_path))
    assert sorted(modes) == ["a", "a/b", "out", "pipe"]
    assert stat.S_ISLNK(modes["out"])
    assert stat.S_ISFIFO(modes["pipe"])


def test_links_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("b")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "missing"):
        with pytest.raises(Refused):
            files.read(tmp_path / name, 100)


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert files.read(tmp_path / "file", 5) == b"12345"
    with pytest.raises(Refused, match="longer"):
        files.read(tmp_path / "file", 4)


def test_a_verified_file_is_copied(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(content)
    files.verify_file(tmp_path / "file", len(content), sha(content), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.parametrize(("size", "digest"), [(4, sha(b"12345")), (6, sha(b"12345")), (5, sha(b"12346"))])
def test_a_file_that_fails_verification_leaves_no_copy(tmp_path: Path, size: int, digest: str) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(Refused):
        files.verify_file(tmp_path / "file", size, digest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_failed_publish_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.publish(tmp_path / "file", b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResourceExhausted, match="No space"):
        files.publish(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_folders_nested_too_deep_are_refused(tmp_path: Path) -> None:
    (tmp_path / ("a/" * 30)).mkdir(parents=True)
    assert len(list(files.listing(tmp_path))) == 30
    (tmp_path / ("a/" * 300)).mkdir(parents=True)
    with pytest.raises(Refused, match="nested too deep"):
        list(files.listing(tmp_path))


def test_a_published_file_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that survives a power cut: sync the bytes, rename the file, sync its folder."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def record_fsync(opened: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(opened).st_mode) else "file")
        fsync(opened)

    def record_rename(path: Path, to: Path) -> Path:
        events.append("rename")
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_rename)
    files.publish(tmp_path / "file", b"new")
    assert events == ["file", "rename", "folder"]


def test_a_file_of_another_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr(files, "verified_blocks", fail)
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(Refused, match="has another size"):
        files.verify_file(tmp_path / "file", 4, sha(b"1234"))


def test_a_file_that_grows_while_it_is_read_is_refused() -> None:
    class Growing(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            return b"x" * 4 if self.reads < 100 else b""

    growing = Growing()
    with pytest.raises(Refused, match="other bytes"):
        list(files.verified_blocks(growing, "file", 6, sha(b"x" * 6)))
    assert growing.reads == 2
