"""Sources that a bundle can be fetched from: a registry, an archive, a web server, a folder."""

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
    """A bundle at another place; its content is untrusted until it has been hashed."""

    def beside(self) -> Mapping[str, bytes]:
        """The manifest, and the signature if there is one, by file name."""

    def agree(self, manifest: Manifest) -> None:
        """Raises Refused if the source lists other files than the manifest."""

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        """Yields the bytes of a file from `start` on. Raises Refused or Unreachable."""


def open_source(
    address: Address, credentials: Credentials, ca: Path | None = None, timeout: float | None = None
) -> AbstractContextManager[Source]:
    """Opens a source; everything read from it must arrive within `timeout` seconds.

    `ca` is a file with the certificates of certificate authorities.
    """
    if isinstance(address, Registry):
        return _registry(address, HttpClient(address.base, credentials.of(address.base), ca=ca, timeout=timeout))
    if isinstance(address, Web):
        return _web(address, HttpClient(address.url, credentials.of(address.url), ca=ca, timeout=timeout))
    return oci_archive.open_archive(address.path) if isinstance(address, Archive) else _folder(address)


@contextmanager
def _registry(address: Registry, client: HttpClient) -> Iterator[Source]:
    try:
        yield RegistrySource(client, address)
    finally:
        client.close()


@contextmanager
def _web(address: Web, client: HttpClient) -> Iterator[Source]:
    try:
        yield _WebSource(client, address.url)
    finally:
        client.close()


@contextmanager
def _folder(address: Folder) -> Iterator[Source]:
    yield _FolderSource(address.path)


class RegistrySource:
    """An artifact in a registry; the OCI manifest is fetched once, and its digest verified."""

    def __init__(self, client: HttpClient, address: Registry) -> None:
        self._client, self._address = client, address
        self._layers = oci.parse_layers(fetch_manifest(client, address), str(address))

    def beside(self) -> Mapping[str, bytes]:
        """The manifest and the signature, whose digests were verified."""
        layers = oci.signed_layers(self._layers, str(self._address))
        contents = {layer.path: b"".join(self._blob(layer.sha256, 0, layer.size)) for layer in layers}
        for layer in layers:
            if oci.digest_of(contents[layer.path]) != f"sha256:{layer.sha256}":
                raise Refused(f"{layer.path} of {self._address} does not have its digest", files.FETCH_AGAIN)
        return contents

    def agree(self, manifest: Manifest) -> None:
        """Raises Refused unless the layers are the files of the bundle, one for one."""
        oci.check_layers(self._layers, manifest, str(self._address))

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        """Yields the bytes of the blob with the digest of a file."""
        return self._blob(file.sha256, start, file.size)

    def _blob(self, sha256: str, start: int, size: int) -> Iterator[bytes]:
        return self._client.stream(f"/v2/{self._address.name}/blobs/sha256:{sha256}", start, size)


def fetch_manifest(client: HttpClient, address: Registry) -> bytes:
    """Fetches an OCI manifest; raises Refused unless it has the digest of the address, or else of the response."""
    reference = address.digest or address.tag
    url = f"/v2/{address.name}/manifests/{reference}"
    reply = client.ask("GET", url, headers={"Accept": oci.MANIFEST_TYPE})
    if reply.status == 404:
        raise BadInput(f"there is no {address}", "check the name and the tag")
    if reply.status != 200:
        raise BadInput(f"{address}: the registry answers {reply.status}", "check the name and the tag")
    digest = address.digest or reply.headers.get("docker-content-digest", "")
    if digest.startswith("sha256:") and oci.digest_of(reply.body) != digest:
        raise Refused(f"the OCI manifest of {address} does not have its digest", files.FETCH_AGAIN)
    return reply.body


class _WebSource:
    def __init__(self, client: HttpClient, url: str) -> None:
        self._client, self._url = client, url

    def beside(self) -> Mapping[str, bytes]:
        contents = {}
        for name in (MANIFEST_FILE, SIGNATURE_FILE):
            reply = self._client.ask("GET", self._url + name)
            if reply.status == 200:
                contents[name] = reply.body
            elif name == MANIFEST_FILE or reply.status != 404:
                raise BadInput(f"{self._url}{name}: {reply.status}", "give the address of a bundle's folder")
        return contents

    def agree(self, manifest: Manifest) -> None:
        pass  # a web server does not list the files of a bundle

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        return self._client.stream(self._url + file.path, start, file.size)


class _FolderSource:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def beside(self) -> Mapping[str, bytes]:
        if not (self._folder / MANIFEST_FILE).exists():
            raise BadInput(f"{self._folder} holds no {MANIFEST_FILE}", "give the folder of a bundle")
        names = [name for name in (MANIFEST_FILE, SIGNATURE_FILE) if (self._folder / name).exists()]
        return {name: files.read(self._folder / name, MAX_MANIFEST_BYTES) for name in names}

    def agree(self, manifest: Manifest) -> None:
        pass  # other files in the folder are not fetched

    def stream(self, file: File, start: int) -> Iterator[bytes]:
        with files.open_file(self._folder / file.path) as opened:
            if os.fstat(opened.fileno()).st_size != file.size:
                raise Refused(f"{self._folder / file.path} has another size than the manifest says", files.FETCH_AGAIN)
            opened.seek(start)
            while block := opened.read(_BLOCK):
                yield block
