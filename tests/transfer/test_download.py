"""Downloads of a single file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deploytool.bundle.manifest import File, Manifest, Role
from deploytool.errors import Refused
from deploytool.transfer import download

RAW = b"x" * 5000
FILE = File("engines/a.plan", len(RAW), hashlib.sha256(RAW).hexdigest(), Role.ENGINE)


class Endless:
    """A source that sends more than the size of the file, and counts its blocks."""

    def __init__(self, block: bytes) -> None:
        self._block, self.sent = block, 0

    def beside(self) -> Mapping[str, bytes]:
        return {}

    def agree(self, manifest: Manifest) -> None:
        """Accepts every manifest."""

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        for self.sent in range(1, 100):
            yield self._block


def test_a_download_stops_after_the_size_of_the_file(tmp_path: Path) -> None:
    source = Endless(b"x" * 1000)
    with pytest.raises(Refused, match="other bytes"):
        download.fetch(source, FILE, tmp_path / "out", tmp_path)
    assert source.sent == 6
    assert not list(tmp_path.iterdir())


def test_wrong_bytes_of_the_right_size_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="other bytes"):
        download.fetch(Endless(b"y" * len(RAW)), FILE, tmp_path / "out", tmp_path)
    assert not list(tmp_path.iterdir())
