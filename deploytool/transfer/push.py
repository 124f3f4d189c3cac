"""Sends a bundle to an OCI registry: what is there is not sent, what was cut goes on, the manifest comes last."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

from deploytool import serde
from deploytool.bundle.manifest import MAX_MANIFEST_BYTES, Manifest, manifest_digest
from deploytool.errors import BadInput, DeployError, Refused, Unreachable
from deploytool.host import disk, files
from deploytool.transfer import oci
from deploytool.transfer.addresses import Registry
from deploytool.transfer.auth import Credentials
from deploytool.transfer.http import HttpClient, Reply
from deploytool.transfer.oci import Layer

Say = Callable[[str], None]

CHUNK = 8 << 20  # bytes of a request; larger blobs take several
_LOG = logging.getLogger(__name__)
_TRIES = 3
_OCTETS = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True)
class PushResult:
    """A bundle in a registry: its name by digest, and how many bytes were sent and were there already."""

    name: str
    oci_digest: str
    digest: str
    sent: int
    there: int


def push(
    folder: Path,
    manifest: Manifest,
    place: Registry,
    logins: Credentials,
    *,
    ca: Path | None = None,
    timeout: float | None = None,
    chunk: int = CHUNK,
    say: Say,
) -> PushResult:
    """Sends every file that the registry lacks, and then the manifest, before which nobody sees anything.

    `ca` is a file with the certificates of those who may vouch for it; all must be done within `timeout` seconds.

    Raises Unreachable if the registry does not answer, BadInput if it does not let us in or refuses what we send.
    """
    if place.digest:
        raise BadInput(f"{place} is a digest, which nobody can choose", "give a tag")
    made = oci.build_artifact(folder, manifest)
    wire = HttpClient(place.base, logins.of(place.base), ca=ca, timeout=timeout)
    record = folder.absolute().parent / f".{folder.absolute().name}.pushing.json"
    sender = _Sender(wire, place, record, chunk)
    layers = {layer.sha256: layer for layer in made.layers}.values()
    say(f"{len(layers)} files, {disk.size(sum(layer.size for layer in layers))}")
    try:
        for layer in layers:
            sender.send(folder / layer.path, layer)
        sender.small(made.config)
        headers = {"Content-Type": oci.MANIFEST_TYPE}
        reply = wire.ask("PUT", f"/v2/{place.name}/manifests/{place.tag}", made.manifest, headers)
        _expect(reply, 201, f"{place} is not taken")
    finally:
        wire.close()
    record.unlink(missing_ok=True)
    digest = Registry(place.base, place.name, place.tag, made.digest)
    return PushResult(str(digest), made.digest, manifest_digest(folder), sender.sent, sender.there)


@dataclass
class _Upload:
    """A chunked upload in progress: the address for the next chunk, and the number of bytes that the registry has."""

    location: str
    offset: int = 0


class _Sender:
    """Sends blobs to one name in a registry, and counts the bytes."""

    def __init__(self, wire: HttpClient, place: Registry, record: Path, chunk: int) -> None:
        self._wire, self._place, self._record, self._chunk = wire, place, record, chunk
        self.sent = self.there = 0

    def send(self, path: Path, layer: Layer) -> None:
        """One file: hashed first, so that nothing is sent that the manifest does not name."""
        if self._known(f"sha256:{layer.sha256}", layer.size):
            self.there += layer.size
            return
        files.verify_file(path, layer.size, layer.sha256)
        if layer.size <= self._chunk:
            self.small(files.read(path, layer.size))
        else:
            self._send_in_chunks(path, layer)
        _LOG.debug("%s: %s", layer.path, disk.size(layer.size))

    def small(self, raw: bytes) -> None:
        """A blob in one request."""
        digest = oci.digest_of(raw)
        if not self._known(digest, len(raw)):
            self._end(self._begun(), digest, raw)
            self.sent += len(raw)

    def _known(self, digest: str, size: int) -> bool:
        reply = self._wire.ask("HEAD", self._blob(digest))
        return reply.status == 200 and reply.headers.get("content-length") in (None, str(size))

    def _blob(self, digest: str) -> str:
        return f"/v2/{self._place.name}/blobs/{digest}"

    def _begun(self) -> str:
        """The address of a new upload."""
        reply = self._wire.ask("POST", self._blob("uploads/"))
        _expect(reply, 202, f"{self._place} takes no upload")
        return urljoin(self._wire.base, reply.headers.get("location", ""))

    def _end(self, location: str, digest: str, raw: bytes = b"") -> None:
        joint = "&" if urlsplit(location).query else "?"
        reply = self._wire.ask("PUT", location + joint + urlencode({"digest": digest}), raw, _OCTETS, again=False)
        _expect(reply, 201, f"{self._place} does not take {digest}")

    def _send_in_chunks(self, path: Path, layer: Layer) -> None:
        """Sends a blob in chunks; after an error it continues from the offset that the registry reports.

        A registry that has dropped the upload gets the blob from its start.
        """
        furthest = failures = 0
        while True:
            upload = self._resumed(layer.sha256) or _Upload(self._begun())
            try:
                self._send_rest(upload, path, layer.sha256)
            except DeployError as error:
                furthest, failures = (upload.offset, 0) if upload.offset > furthest else (furthest, failures + 1)
                if failures == _TRIES:
                    raise Unreachable(f"{self._place}: {error}", "try again: what has come is kept") from error
            else:
                self._end(upload.location, f"sha256:{layer.sha256}")
                return

    def _send_rest(self, upload: _Upload, path: Path, sha256: str) -> None:
        """Sends a file from the offset of the upload on, and records the address for the next chunk after each one."""
        with path.open("rb") as file:
            file.seek(upload.offset)
            _write(self._record, self._key(sha256), upload.location)
            while block := file.read(self._chunk):
                upload.location = self._send_chunk(upload, block)
                upload.offset += len(block)
                self.sent += len(block)
                _write(self._record, self._key(sha256), upload.location)

    def _send_chunk(self, upload: _Upload, block: bytes) -> str:
        """Sends one chunk and returns the address for the next one."""
        last = upload.offset + len(block) - 1
        headers = {**_OCTETS, "Content-Range": f"{upload.offset}-{last}"}
        reply = self._wire.ask("PATCH", upload.location, block, headers, again=False)
        if reply.status != 202:
            raise Refused(f"the registry takes no chunk from byte {upload.offset} on: {reply.status}", "try again")
        return urljoin(upload.location, reply.headers.get("location", upload.location))

    def _key(self, sha256: str) -> str:
        return f"{self._place.base}/{self._place.name} {sha256}"

    def _resumed(self, sha256: str) -> _Upload | None:
        """An upload of this blob that was begun before; None if there is no record of one, or the registry lost it."""
        location = _read(self._record).get(self._key(sha256))
        if location is None:
            return None
        reply = self._wire.ask("GET", location)
        if reply.status != 204:
            return None
        last = reply.headers.get("range", "0-0").rpartition("-")[2]
        start = int(last) + 1 if last.isdecimal() and last != "0" else 0
        return _Upload(urljoin(location, reply.headers.get("location", location)), start)


def _expect(reply: Reply, status: int, problem: str) -> None:
    if reply.status != status:
        why = " ".join(reply.body[:300].decode(errors="replace").split())
        raise BadInput(f"{problem}: {reply.status} {why}", "check the name, and that you may write there")


def _read(record: Path) -> dict[str, str]:
    """Where uploads were begun; a record that cannot be read is none."""
    with suppress(Refused, ValueError, TypeError):
        found = serde.loads(files.read(record, MAX_MANIFEST_BYTES))
        return {str(key): str(location) for key, location in found.items()}
    return {}


def _write(record: Path, key: str, location: str) -> None:
    with suppress(OSError):  # without a record a killed push begins anew, and that is all
        files.publish(record, serde.text({**_read(record), key: location}).encode())
