"""What a bundle can be fetched from: a registry, an archive, a web server, a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from deploytool.bundle.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, SIGNATURE_FILE, File, Manifest
from deploytool.errors import BadInput, Refused
from deploytool.host import files
from deploytool.transfer import oci, oci_archive
from deploytool.transfer.addresses import Address, Archive, Folder, Registry, Web
from deploytool.transfer.auth import Credentials
from deploytool.transfer.http import HttpClient

_BLOCK = 1 << 20


class Source(Protocol):
    """A bundle that lies elsewhere; nothing that it says is believed before it has been hashed."""

    def beside(self) -> Mapping[str, bytes]:
        """The manifest, and the signature if there is one, by their names."""

    def agree(self, manifest: Manifest) -> None:
        """Raises Refused if the place itself says that other files belong to it than the manifest."""

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        """The bytes of a file from `start` on. Raises Refused or Unreachable."""


def open_source(
    place: Address, logins: Credentials, ca: Path | None = None, timeout: float | None = None
) -> AbstractContextManager[Source]:
    """A place to fetch from, within `timeout` seconds; `logins` say who we are there.

    `ca` is a file with the certificates of those who may vouch for a server.
    """
    if isinstance(place, Registry):
        return _registry(place, HttpClient(place.base, logins.of(place.base), ca=ca, timeout=timeout))
    if isinstance(place, Web):
        return _web(place, HttpClient(place.url, logins.of(place.url), ca=ca, timeout=timeout))
    return oci_archive.open_archive(place.path) if isinstance(place, Archive) else _folder(place)


@contextmanager
def _registry(place: Registry, wire: HttpClient) -> Iterator[Source]:
    try:
        yield RegistrySource(wire, place)
    finally:
        wire.close()


@contextmanager
def _web(place: Web, wire: HttpClient) -> Iterator[Source]:
    try:
        yield _FromWeb(wire, place.url)
    finally:
        wire.close()


@contextmanager
def _folder(place: Folder) -> Iterator[Source]:
    yield _FromFolder(place.path)


class RegistrySource:
    """A name in a registry; the OCI manifest is fetched once, and held against its digest."""

    def __init__(self, wire: HttpClient, place: Registry) -> None:
        self._wire, self._place = wire, place
        self._layers = oci.parse_layers(fetch_manifest(wire, place), str(place))

    def beside(self) -> Mapping[str, bytes]:
        """The manifest and signature, hashed."""
        few = oci.signed_layers(self._layers, str(self._place))
        found = {layer.path: b"".join(self._blob(layer.sha256, 0, layer.size)) for layer in few}
        for layer in few:
            if oci.digest_of(found[layer.path]) != f"sha256:{layer.sha256}":
                raise Refused(f"{self._place} has another {layer.path} than it says", files.AGAIN)
        return found

    def agree(self, manifest: Manifest) -> None:
        """Every layer is a file of the bundle and the other way round."""
        oci.check_layers(self._layers, manifest, str(self._place))

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        """By its digest."""
        return self._blob(file.sha256, start, file.size)

    def _blob(self, sha256: str, start: int, size: int) -> Iterator[bytes]:
        return self._wire.stream(f"/v2/{self._place.name}/blobs/sha256:{sha256}", start, size)


def fetch_manifest(wire: HttpClient, place: Registry) -> bytes:
    """The OCI manifest of a name, which is what its digest, or the registry, says that it is."""
    reference = place.digest or place.tag
    url = f"/v2/{place.name}/manifests/{reference}"
    reply = wire.ask("GET", url, headers={"Accept": oci.MANIFEST_TYPE})
    if reply.status == 404:
        raise BadInput(f"there is no {place}", "check the name and the tag")
    if reply.status != 200:
        raise BadInput(f"{place}: the registry answers {reply.status}", "check the name and the tag")
    said = place.digest or reply.headers.get("docker-content-digest", "")
    if said.startswith("sha256:") and oci.digest_of(reply.body) != said:
        raise Refused(f"{place} has another manifest than its digest says", files.AGAIN)
    return reply.body


class _FromWeb:
    def __init__(self, wire: HttpClient, url: str) -> None:
        self._wire, self._url = wire, url

    def beside(self) -> Mapping[str, bytes]:
        found = {}
        for name in (MANIFEST_FILE, SIGNATURE_FILE):
            reply = self._wire.ask("GET", self._url + name)
            if reply.status == 200:
                found[name] = reply.body
            elif name == MANIFEST_FILE or reply.status != 404:
                raise BadInput(f"{self._url}{name}: {reply.status}", "give the address of a bundle's folder")
        return found

    def agree(self, manifest: Manifest) -> None:
        pass  # a web server does not say what belongs together

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        return self._wire.stream(self._url + file.path, start, file.size)


class _FromFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def beside(self) -> Mapping[str, bytes]:
        if not (self._folder / MANIFEST_FILE).exists():
            raise BadInput(f"{self._folder} holds no {MANIFEST_FILE}", "give the folder of a bundle")
        names = [name for name in (MANIFEST_FILE, SIGNATURE_FILE) if (self._folder / name).exists()]
        return {name: files.read(self._folder / name, MAX_MANIFEST_BYTES) for name in names}

    def agree(self, manifest: Manifest) -> None:
        pass  # what else lies there stays there

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        with files.open_file(self._folder / file.path) as opened:
            if os.fstat(opened.fileno()).st_size != file.size:
                raise Refused(f"{self._folder / file.path} has another size than the manifest says", files.AGAIN)
            opened.seek(start)
            while block := opened.read(_BLOCK):
                yield block
