"""A bundle as one file: an OCI image layout in a plain tar, which is read member by member and never unpacked."""

from __future__ import annotations

import glob
import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from deploytool import serde
from deploytool.bundle.manifest import MAX_MANIFEST_BYTES, File, Manifest, all_files
from deploytool.errors import BadInput, Refused
from deploytool.host import disk, files, owner
from deploytool.transfer import oci
from deploytool.transfer.oci import Artifact, Layer

_LAYOUT, _INDEX = "oci-layout", "index.json"
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_FOLDERS = ("blobs", "blobs/sha256", ".")
_MOST = 10_000  # members
_BLOCK = 1 << 20


def write(folder: Path, manifest: Manifest, path: Path) -> Artifact:
    """Puts a bundle into one file, as a whole or not at all; the same bundle gives the same bytes."""
    made = oci.build_artifact(folder, manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.sweep(path.parent, f".{glob.escape(path.name)}.*{files.UNFINISHED}")
    size = sum(file.size for file in all_files(manifest))
    disk.check(path.parent, size, f"{path.name}")
    making = path.with_name(f".{path.name}.{owner.name()}{files.UNFINISHED}")
    try:
        with disk.writing(making, named=path, needed=size):
            with making.open("wb") as opened:
                with tarfile.open(fileobj=opened, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    _fill(tar, folder, made, f"{manifest.name}:{manifest.sequence}")
                opened.flush()
                os.fsync(opened.fileno())
            making.replace(path)
    finally:
        making.unlink(missing_ok=True)
    files.sync_folder(path.parent)
    return made


def _fill(tar: tarfile.TarFile, folder: Path, made: Artifact, called: str) -> None:
    whole = {"mediaType": oci.MANIFEST_TYPE, "digest": made.digest, "size": len(made.manifest)}
    about = {"artifactType": oci.ARTIFACT_TYPE, "annotations": {"org.opencontainers.image.ref.name": called}}
    index = {"schemaVersion": 2, "mediaType": oci.INDEX_TYPE, "manifests": [{**whole, **about}]}
    _add(tar, _LAYOUT, b'{"imageLayoutVersion":"1.0.0"}')
    _add(tar, _INDEX, serde.text(index).encode())
    _add(tar, _place(made.digest), made.manifest)
    _add(tar, _place(oci.digest_of(made.config)), made.config)
    for layer in {layer.sha256: layer for layer in made.layers}.values():
        with files.open_file(folder / layer.path) as opened:
            held = _Held(opened, layer)
            tar.addfile(_member(f"blobs/sha256/{layer.sha256}", layer.size), held)
            held.read(1)  # at its end the digest is held against the manifest's


class _Held(io.RawIOBase):
    """A file that is hashed while it is read, so that what goes in is what the manifest names."""

    def __init__(self, opened: BinaryIO, layer: Layer) -> None:
        self._blocks, self._layer = files.verified_blocks(opened, layer.path, layer.size, layer.sha256), layer
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        while len(self._left) < size and (block := next(self._blocks, b"")):
            self._left += block
        given, self._left = self._left[:size], self._left[size:]
        return given


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(tar: tarfile.TarFile, name: str, raw: bytes) -> None:
    tar.addfile(_member(name, len(raw)), io.BytesIO(raw))


def _member(name: str, size: int) -> tarfile.TarInfo:
    """With no owner and no time, so that only the content counts."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


@contextmanager
def open_archive(path: Path) -> Iterator[ArchiveSource]:
    """A bundle in one file. Raises BadInput if there is no such file, Refused if it is not what `write` makes."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}", "check the path")
    with path.open("rb") as raw:
        yield ArchiveSource(raw, path)


class ArchiveSource:
    """An archive whose members were listed, and of which nothing was written anywhere."""

    def __init__(self, raw: BinaryIO, path: Path) -> None:
        self._raw, self._path = raw, path
        self._members = _members(raw, path)
        self._layers = oci.parse_layers(self._manifest(), str(path))

    def beside(self) -> Mapping[str, bytes]:
        """The manifest and signature, hashed."""
        few = oci.signed_layers(self._layers, str(self._path))
        return {layer.path: self._small(f"blobs/sha256/{layer.sha256}", layer.sha256) for layer in few}

    def agree(self, manifest: Manifest) -> None:
        """Every layer is a file of the bundle and the other way round."""
        oci.check_layers(self._layers, manifest, str(self._path))

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        """By its digest."""
        begin, size = self._found(f"blobs/sha256/{file.sha256}")
        if size != file.size:
            raise Refused(f"{self._path} has another size for {file.path} than the manifest says", files.AGAIN)
        self._raw.seek(begin + start)
        left = size - start
        while left > 0 and (block := self._raw.read(min(_BLOCK, left))):
            left -= len(block)
            yield block

    def _manifest(self) -> bytes:
        try:
            index = serde.loads(self._small(_INDEX))
            (entry,) = [each for each in index["manifests"] if each.get("artifactType") == oci.ARTIFACT_TYPE]
            kind, _, sha256 = entry["digest"].partition(":")
            return self._small(f"blobs/{kind}/{sha256}", sha256)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Refused(f"{self._path} does not hold one model: {error}", files.AGAIN) from error

    def _small(self, name: str, sha256: str | None = None) -> bytes:
        begin, size = self._found(name)
        if size > MAX_MANIFEST_BYTES:
            raise Refused(f"{self._path}: {name} is longer than it may be", files.AGAIN)
        self._raw.seek(begin)
        raw = self._raw.read(size)
        if sha256 is not None and oci.digest_of(raw) != f"sha256:{sha256}":
            raise Refused(f"{self._path}: {name} has other bytes than its name says", files.AGAIN)
        return raw

    def _found(self, name: str) -> tuple[int, int]:
        if name not in self._members:
            raise Refused(f"{self._path} holds no {name}", files.AGAIN)
        return self._members[name]


class _Headers(io.BufferedIOBase):
    """An archive of which only headers are read: tarfile would take one as long as it says that it is."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _BLOCK:
            raise tarfile.ReadError("a header is longer than any may be")
        return self._raw.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()


def _members(raw: BinaryIO, path: Path) -> Mapping[str, tuple[int, int]]:
    """Where each member begins and its size; anything but plain files with names that are expected is refused."""
    found: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(fileobj=_Headers(raw), mode="r:") as tar:
            for count, member in enumerate(tar):
                known = member.name in (_LAYOUT, _INDEX) or _BLOB.fullmatch(member.name)
                if member.isdir() and member.name.removeprefix("./").rstrip("/") in _FOLDERS:
                    continue
                if not known or member.type != tarfile.REGTYPE or member.name in found or count > _MOST:
                    raise Refused(f"{path} holds {member.name!r}, which has no place there", files.AGAIN)
                if member.issparse() or member.size < 0:
                    raise Refused(f"{path}: {member.name} is no plain file", files.AGAIN)
                found[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise Refused(f"{path} is no tar: {error}", files.AGAIN) from error
    return found
