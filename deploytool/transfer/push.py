"""Sends a bundle to an OCI registry: what is there is not sent, what was cut goes on, the manifest comes last."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

from deploytool import serde
from deploytool.bundle.manifest import LONGEST_MANIFEST, Manifest, manifest_digest
from deploytool.errors import BadInput, Refused, Unreachable
from deploytool.host import disk, files, worker_programs
from deploytool.transfer import oci
from deploytool.transfer.addresses import Registry
from deploytool.transfer.auth import Credentials
from deploytool.transfer.carrier import Errand
from deploytool.transfer.http import HttpClient, Reply
from deploytool.transfer.oci import Layer

Say = Callable[[str], None]

CHUNK = 8 << 20  # bytes: what is sent again at most if a push is killed
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
    made = oci.artifact(folder, manifest)
    wire = HttpClient(place.base, logins.of(place.base), ca=ca, timeout=timeout)
    record = folder.absolute().parent / f".{folder.absolute().name}.pushing.json"
    sender = _Sender(wire, place, record, ca, chunk)
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


class _Sender:
    """Sends blobs to one name in a registry, and counts the bytes."""

    def __init__(self, wire: HttpClient, place: Registry, record: Path, ca: Path | None, chunk: int) -> None:
        self._wire, self._place, self._record, self._chunk = wire, place, record, chunk
        self._ca = None if ca is None else str(ca)
        self.sent = self.there = 0

    def send(self, path: Path, layer: Layer) -> None:
        """One file: hashed first, so that nothing is sent that the manifest does not name."""
        if self._known(f"sha256:{layer.sha256}", layer.size):
            self.there += layer.size
            return
        files.hold(path, layer.size, layer.sha256)
        if layer.size <= self._chunk:
            self.small(files.read(path, layer.size))
        else:
            self._large(path, layer)
        _LOG.debug("%s: %s", layer.path, disk.size(layer.size))

    def small(self, raw: bytes) -> None:
        """A blob in one request."""
        digest = oci.name(raw)
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

    def _large(self, path: Path, layer: Layer) -> None:
        """A blob in chunks; where a try was cut, the registry says from where to go on, if it still knows."""
        furthest = vain = 0
        while True:
            location, start = self._resumed(layer.sha256) or (self._begun(), 0)
            _write(self._record, self._key(layer.sha256), location)
            who = (self._wire.authorization, self._ca, str(self._record), self._key(layer.sha256))
            end, location, problem = _carried(Errand(location, str(path), start, layer.size, self._chunk, *who))
            self.sent += end - start
            if end == layer.size:
                self._end(location, f"sha256:{layer.sha256}")
                return
            furthest, vain = (end, 0) if end > furthest else (furthest, vain + 1)
            if vain == _TRIES:
                raise Unreachable(f"{self._place}: {problem}", "try again: what has come is kept")

    def _key(self, sha256: str) -> str:
        return f"{self._place.base}/{self._place.name} {sha256}"

    def _resumed(self, sha256: str) -> tuple[str, int] | None:
        """Where an upload of this blob stands that was begun before; None if the registry knows of none."""
        location = _read(self._record).get(self._key(sha256))
        if location is None:
            return None
        reply = self._wire.ask("GET", location)
        if reply.status != 204:
            return None
        last = reply.headers.get("range", "0-0").rpartition("-")[2]
        start = int(last) + 1 if last.isdecimal() and last != "0" else 0
        return urljoin(location, reply.headers.get("location", location)), start


def _carried(errand: Errand) -> tuple[int, str, str]:
    """How far a carrier came, where the registry wants what follows, and what stopped it.

    It is a process of its own, as a chunk under way must be brought to its end, and where the registry wants the next
    one written down, also when we are killed: a registry may forget an upload whose last answer got lost.
    """
    command, pipe = worker_programs.command(worker_programs.CARRY), subprocess.PIPE
    end, location, problem = errand.start, errand.location, ""
    with (
        suppress(BrokenPipeError),
        subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True
        ) as running,
    ):
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(json.dumps(serde.encode(errand)).encode() + b"\n")
        while end < errand.size and not problem:
            running.stdin.write(b"next\n")
            running.stdin.flush()
            said = json.loads(running.stdout.readline() or b"{}")
            end, location = said.get("end", end), said.get("location", location)
            problem = "" if "end" in said else said.get("problem", "what carried it died")
    return end, location, problem


def _expect(reply: Reply, status: int, problem: str) -> None:
    if reply.status != status:
        why = " ".join(reply.body[:300].decode(errors="replace").split())
        raise BadInput(f"{problem}: {reply.status} {why}", "check the name, and that you may write there")


def _read(record: Path) -> dict[str, str]:
    """Where uploads were begun; a record that cannot be read is none."""
    with suppress(Refused, ValueError, TypeError):
        found = serde.loads(files.read(record, LONGEST_MANIFEST))
        return {str(key): str(location) for key, location in found.items()}
    return {}


def _write(record: Path, key: str, location: str) -> None:
    with suppress(OSError):  # without a record a killed push begins anew, and that is all
        files.publish(record, serde.text({**_read(record), key: location}).encode())
