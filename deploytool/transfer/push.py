"""Pushes a bundle to an OCI registry: skips blobs that it has, resumes interrupted uploads, sends the manifest last."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from deploytool import serde
from deploytool.bundle.manifest import MAX_MANIFEST_BYTES, Manifest, manifest_digest
from deploytool.errors import BadInput, DeployError, Refused, Unreachable
from deploytool.host import disk, files
from deploytool.transfer import http, oci
from deploytool.transfer.addresses import Registry
from deploytool.transfer.auth import Credentials
from deploytool.transfer.http import HttpClient, Reply
from deploytool.transfer.oci import Layer

Say = Callable[[str], None]

CHUNK = 8 << 20  # bytes of a request; larger blobs take several
_LOG = logging.getLogger(__name__)
_TRIES = 3
_OCTET_STREAM = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True)
class PushResult:
    """A bundle in a registry: its address by digest, and how many bytes were sent and were there already."""

    name: str
    oci_digest: str
    digest: str
    sent: int
    there: int


def push(
    folder: Path,
    manifest: Manifest,
    address: Registry,
    credentials: Credentials,
    *,
    ca: Path | None = None,
    timeout: float | None = None,
    chunk: int = CHUNK,
    say: Say,
) -> PushResult:
    """Sends every file that the registry lacks, and then the manifest, which publishes the artifact.

    `ca` is a file with the certificates of certificate authorities; all must end within `timeout` seconds.

    Raises Unreachable if the registry does not answer, BadInput if authentication fails or it rejects a request.
    """
    if address.digest:
        raise BadInput(f"{address} is a digest, and a push needs a tag", "give a tag")
    artifact = oci.build_artifact(folder, manifest)
    client = HttpClient(address.base, credentials.of(address.base), ca=ca, timeout=timeout)
    record = folder.absolute().parent / f".{folder.absolute().name}.pushing.json"
    sender = _Sender(client, address, record, chunk)
    layers = {layer.sha256: layer for layer in artifact.layers}.values()
    say(f"{len(layers)} files, {disk.size(sum(layer.size for layer in layers))}")
    try:
        for layer in layers:
            sender.send(folder / layer.path, layer)
        sender.send_bytes(artifact.config)
        headers = {"Content-Type": oci.MANIFEST_TYPE}
        reply = client.ask("PUT", f"/v2/{address.name}/manifests/{address.tag}", artifact.manifest, headers)
        _expect(reply, 201, f"the registry rejects the manifest of {address}")
    finally:
        client.close()
    record.unlink(missing_ok=True)
    digest = Registry(address.base, address.name, address.tag, artifact.digest)
    return PushResult(str(digest), artifact.digest, manifest_digest(folder), sender.sent, sender.there)


@dataclass
class _Upload:
    """A chunked upload in progress: the address for the next chunk, and the number of bytes that the registry has."""

    location: str
    offset: int = 0


class _Sender:
    """Sends blobs to one repository of a registry, and counts the bytes."""

    def __init__(self, client: HttpClient, address: Registry, record: Path, chunk: int) -> None:
        self._client, self._address, self._record, self._chunk = client, address, record, chunk
        self.sent = self.there = 0

    def send(self, path: Path, layer: Layer) -> None:
        """Sends a file after hashing it, so that only bytes that the manifest names are sent."""
        if self._has_blob(f"sha256:{layer.sha256}", layer.size):
            self.there += layer.size
            return
        files.verify_file(path, layer.size, layer.sha256)
        if layer.size <= self._chunk:
            self.send_bytes(files.read(path, layer.size))
        else:
            self._send_in_chunks(path, layer)
        _LOG.debug("%s: %s", layer.path, disk.size(layer.size))

    def send_bytes(self, raw: bytes) -> None:
        """Sends a blob in one request."""
        digest = oci.digest_of(raw)
        if not self._has_blob(digest, len(raw)):
            self._finish(self._start(), digest, raw)
            self.sent += len(raw)

    def _has_blob(self, digest: str, size: int) -> bool:
        reply = self._client.ask("HEAD", self._blob(digest))
        return reply.status == 200 and reply.headers.get("content-length") in (None, str(size))

    def _blob(self, digest: str) -> str:
        return f"/v2/{self._address.name}/blobs/{digest}"

    def _start(self) -> str:
        """Starts an upload and returns its address."""
        reply = self._client.ask("POST", self._blob("uploads/"))
        _expect(reply, 202, f"the registry starts no upload to {self._address}")
        return http.resolve(self._client.base, reply.headers.get("location", ""))

    def _finish(self, location: str, digest: str, raw: bytes = b"") -> None:
        separator = "&" if urlsplit(location).query else "?"
        reply = self._client.ask(
            "PUT", location + separator + urlencode({"digest": digest}), raw, _OCTET_STREAM, again=False
        )
        _expect(reply, 201, f"the registry rejects {digest}")

    def _send_in_chunks(self, path: Path, layer: Layer) -> None:
        """Sends a blob in chunks; after an error it continues from the offset that the registry reports.

        A registry that has dropped the upload gets the blob from its start.
        """
        furthest = failures = 0
        while True:
            upload = self._resume(layer.sha256) or _Upload(self._start())
            try:
                self._send_rest(upload, path, layer.sha256)
            except DeployError as error:
                furthest, failures = (upload.offset, 0) if upload.offset > furthest else (furthest, failures + 1)
                if failures == _TRIES:
                    raise Unreachable(f"{self._address}: {error}", "try again: the upload resumes") from error
            else:
                self._finish(upload.location, f"sha256:{layer.sha256}")
                return

    def _send_rest(self, upload: _Upload, path: Path, sha256: str) -> None:
        """Sends a file from the offset of the upload on, and records the address for the next chunk after each one."""
        with path.open("rb") as file:
            file.seek(upload.offset)
            _record_upload(self._record, self._key(sha256), upload.location)
            while block := file.read(self._chunk):
                upload.location = self._send_chunk(upload, block)
                upload.offset += len(block)
                self.sent += len(block)
                _record_upload(self._record, self._key(sha256), upload.location)

    def _send_chunk(self, upload: _Upload, block: bytes) -> str:
        """Sends one chunk and returns the address for the next one."""
        last = upload.offset + len(block) - 1
        headers = {**_OCTET_STREAM, "Content-Range": f"{upload.offset}-{last}"}
        reply = self._client.ask("PATCH", upload.location, block, headers, again=False)
        if reply.status != 202:
            raise Refused(f"the registry rejects the chunk from byte {upload.offset} on: {reply.status}", "try again")
        return http.resolve(upload.location, reply.headers.get("location", upload.location))

    def _key(self, sha256: str) -> str:
        return f"{self._address.base}/{self._address.name} {sha256}"

    def _resume(self, sha256: str) -> _Upload | None:
        """The recorded upload of a blob; None if none is recorded, or the registry dropped it."""
        location = _read_record(self._record).get(self._key(sha256))
        if location is None:
            return None
        reply = self._client.ask("GET", location)
        if reply.status != 204:
            return None
        last = reply.headers.get("range", "0-0").rpartition("-")[2]
        start = int(last) + 1 if last.isdecimal() and last != "0" else 0
        return _Upload(http.resolve(location, reply.headers.get("location", location)), start)


def _expect(reply: Reply, status: int, problem: str) -> None:
    if reply.status != status:
        detail = " ".join(reply.body[:300].decode(errors="replace").split())
        raise BadInput(f"{problem}: {reply.status} {detail}", "check the name and your write access")


def _read_record(record: Path) -> dict[str, str]:
    """The addresses of unfinished uploads; empty if the record cannot be read."""
    with suppress(Refused, ValueError, TypeError):
        uploads = serde.loads(files.read(record, MAX_MANIFEST_BYTES))
        return {str(key): str(location) for key, location in uploads.items()}
    return {}


def _record_upload(record: Path, key: str, location: str) -> None:
    with suppress(OSError):  # without a record, an interrupted file is sent again from its start
        files.publish(record, serde.text({**_read_record(record), key: location}).encode())
