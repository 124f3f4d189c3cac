"""Writes and reads a bundle as one file, an OCI image layout in an uncompressed tar, which is never unpacked."""

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
    """Writes a bundle to one file, atomically; the same bundle gives the same bytes."""
    artifact = oci.build_artifact(folder, manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.sweep(path.parent, f".{glob.escape(path.name)}.*{files.UNFINISHED}")
    size = sum(file.size for file in all_files(manifest))
    disk.check(path.parent, size, path.name)
    unfinished = path.with_name(f".{path.name}.{owner.name()}{files.UNFINISHED}")
    try:
        with disk.writing(unfinished, named=path, needed=size):
            with unfinished.open("wb") as opened:
                with tarfile.open(fileobj=opened, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    _fill(tar, folder, artifact, f"{manifest.name}:{manifest.sequence}")
                opened.flush()
                os.fsync(opened.fileno())
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    files.sync_folder(path.parent)
    return artifact


def _fill(tar: tarfile.TarFile, folder: Path, artifact: Artifact, reference: str) -> None:
    entry = {
        "mediaType": oci.MANIFEST_TYPE,
        "digest": artifact.digest,
        "size": len(artifact.manifest),
        "artifactType": oci.ARTIFACT_TYPE,
        "annotations": {"org.opencontainers.image.ref.name": reference},
    }
    index = {"schemaVersion": 2, "mediaType": oci.INDEX_TYPE, "manifests": [entry]}
    _add(tar, _LAYOUT, b'{"imageLayoutVersion":"1.0.0"}')
    _add(tar, _INDEX, serde.text(index).encode())
    _add(tar, _blob_path(artifact.digest), artifact.manifest)
    _add(tar, _blob_path(oci.digest_of(artifact.config)), artifact.config)
    for layer in {layer.sha256: layer for layer in artifact.layers}.values():
        with files.open_file(folder / layer.path) as opened:
            verified = _VerifiedFile(opened, layer)
            tar.addfile(_member(f"blobs/sha256/{layer.sha256}", layer.size), verified)
            verified.read(1)  # the digest is compared at the end of the file


class _VerifiedFile(io.RawIOBase):
    """A file that is hashed while it is read, so that the archive holds the bytes that the manifest names."""

    def __init__(self, opened: BinaryIO, layer: Layer) -> None:
        self._blocks, self._layer = files.verified_blocks(opened, layer.path, layer.size, layer.sha256), layer
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and (block := next(self._blocks, b"")):
            self._rest += block
        block, self._rest = self._rest[:size], self._rest[size:]
        return block


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(tar: tarfile.TarFile, name: str, raw: bytes) -> None:
    tar.addfile(_member(name, len(raw)), io.BytesIO(raw))


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A member without owner and time, so that the archive depends on its content only."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


@contextmanager
def open_archive(path: Path) -> Iterator[ArchiveSource]:
    """Opens an archive; raises BadInput if the file does not exist, Refused if it is not what `write` makes."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}", "check the path")
    with path.open("rb") as raw:
        yield ArchiveSource(raw, path)


class ArchiveSource:
    """A bundle in an archive, whose members are read in place."""

    def __init__(self, raw: BinaryIO, path: Path) -> None:
        self._raw, self._path = raw, path
        self._members = _members(raw, path)
        self._layers = oci.parse_layers(self._manifest(), str(path))

    def beside(self) -> Mapping[str, bytes]:
        """The manifest and the signature, whose digests were verified."""
        layers = oci.signed_layers(self._layers, str(self._path))
        return {layer.path: self._read(f"blobs/sha256/{layer.sha256}", layer.sha256) for layer in layers}

    def agree(self, manifest: Manifest) -> None:
        """Raises Refused unless the layers are the files of the bundle, one for one."""
        oci.check_layers(self._layers, manifest, str(self._path))

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        """The bytes of a file, found by its digest, from `start` on."""
        begin, size = self._find(f"blobs/sha256/{file.sha256}")
        if size != file.size:
            raise Refused(f"{file.path} in {self._path} has another size than the manifest says", files.FETCH_AGAIN)
        self._raw.seek(begin + start)
        left = size - start
        while left > 0 and (block := self._raw.read(min(_BLOCK, left))):
            left -= len(block)
            yield block

    def _manifest(self) -> bytes:
        try:
            index = serde.loads(self._read(_INDEX))
            (entry,) = [entry for entry in index["manifests"] if entry.get("artifactType") == oci.ARTIFACT_TYPE]
            kind, _, sha256 = entry["digest"].partition(":")
            return self._read(f"blobs/{kind}/{sha256}", sha256)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Refused(f"{self._path} does not hold exactly one bundle: {error}", files.FETCH_AGAIN) from error

    def _read(self, name: str, sha256: str | None = None) -> bytes:
        begin, size = self._find(name)
        if size > MAX_MANIFEST_BYTES:
            raise Refused(f"{self._path}: {name} is longer than {MAX_MANIFEST_BYTES >> 20} MiB", files.FETCH_AGAIN)
        self._raw.seek(begin)
        raw = self._raw.read(size)
        if sha256 is not None and oci.digest_of(raw) != f"sha256:{sha256}":
            raise Refused(f"{self._path}: {name} has other bytes than its name says", files.FETCH_AGAIN)
        return raw

    def _find(self, name: str) -> tuple[int, int]:
        if name not in self._members:
            raise Refused(f"{self._path} holds no {name}", files.FETCH_AGAIN)
        return self._members[name]


class _HeaderReader(io.BufferedIOBase):
    """Bounds the size of each read: tarfile reads a header of whatever length it states."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _BLOCK:
            raise tarfile.ReadError(f"a header is longer than {_BLOCK >> 20} MiB")
        return self._raw.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()


def _members(raw: BinaryIO, path: Path) -> Mapping[str, tuple[int, int]]:
    """The offset and size of each member; raises Refused for anything but plain files with expected names."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(fileobj=_HeaderReader(raw), mode="r:") as tar:
            for count, member in enumerate(tar):
                known = member.name in (_LAYOUT, _INDEX) or _BLOB.fullmatch(member.name)
                if member.isdir() and member.name.removeprefix("./").rstrip("/") in _FOLDERS:
                    continue
                if not known or member.type != tarfile.REGTYPE or member.name in members or count > _MOST:
                    raise Refused(f"{path} holds an unexpected member {member.name!r}", files.FETCH_AGAIN)
                if member.issparse() or member.size < 0:
                    raise Refused(f"{path}: {member.name} is not a plain file", files.FETCH_AGAIN)
                members[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise Refused(f"{path} is not a tar file: {error}", files.FETCH_AGAIN) from error
    return members
