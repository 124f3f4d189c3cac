"""Where a bundle is sent or fetched: in a registry, in one file, on a web server, in a folder, on a device."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploytool.errors import BadInput

_HOST = r"(?P<host>[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?P<port>:\d+)?"
_NAME = r"(?P<name>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
_AFTER = r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
_OCI = re.compile(
    rf"oci://{_HOST}/{_NAME}(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?", re.A
)
_DEVICE = re.compile(r"(?P<host>(?:[\w.-]+@)?[A-Za-z0-9][\w.-]*|(?:[\w.-]+@)?\[[0-9a-fA-F:]+\]):(?P<root>/.*)", re.A)
_ARCHIVE = "oci-archive:"


@dataclass(frozen=True)
class Registry:
    """A name in an OCI registry; `base` is its scheme and host, and a `digest` is stronger than any tag."""

    base: str
    name: str
    tag: str
    digest: str | None = None

    def __str__(self) -> str:
        after = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"oci://{urlsplit(self.base).netloc}/{self.name}{after}"


@dataclass(frozen=True)
class Archive:
    """One file: an OCI image layout in a plain tar."""

    path: Path


@dataclass(frozen=True)
class Web:
    """A bundle's folder as a web server gives it out; the address ends with a slash."""

    url: str


@dataclass(frozen=True)
class Folder:
    """A bundle's folder: on a stick, on a share."""

    path: Path


@dataclass(frozen=True)
class Device:
    """A folder on a device that ssh reaches."""

    host: str
    root: str


Address = Registry | Archive | Web | Folder


def parse(text: str, *, plain_http: bool = False, ca: Path | None = None) -> Address:
    """The place that an address names.

    http without TLS is for this machine's own registry, unless one asks for it; who gives a `ca` means TLS there too.
    Raises BadInput for what is no address.
    """
    if plain_http and ca is not None:
        raise BadInput("--plain-http and --ca contradict each other", "--ca is for TLS: leave one of them out")
    if text.startswith("oci://"):
        return _registry(text, plain_http, ca)
    if text.startswith(_ARCHIVE):
        return Archive(Path(text.removeprefix(_ARCHIVE)))
    if text.startswith(("http://", "https://")):
        parts = urlsplit(text)
        if parts.scheme == "http" and not plain_http and not is_loopback(parts.hostname or ""):
            raise BadInput(f"{text} is not encrypted", "use https://, or --plain-http if you must")
        if not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
            raise BadInput(f"{text} is no address of a folder", "write https://server/path/to/bundle/")
        return Web(text if text.endswith("/") else f"{text}/")
    if "://" in text:
        raise BadInput(f"{text} is an address of a kind nobody knows", "use oci://, oci-archive:, https:// or a folder")
    return Folder(Path(text))


def _registry(text: str, plain_http: bool, ca: Path | None) -> Registry:
    found = _OCI.fullmatch(text)
    if found is None:
        raise BadInput(f"{text} is no address in a registry", "write oci://host:port/name:tag, or …/name@sha256:…")
    scheme = "http" if plain_http or (is_loopback(found["host"]) and ca is None) else "https"
    return Registry(
        f"{scheme}://{found['host']}{found['port'] or ''}", found["name"], found["tag"] or "latest", found["digest"]
    )


def parse_device(text: str) -> Device:
    """The place that `user@device:/root` names. Raises BadInput for what is none."""
    found = _DEVICE.fullmatch(text)
    if found is None or "\n" in text:
        raise BadInput(f"{text} is no folder on a device", "write user@device:/path/to/root")
    return Device(found["host"].replace("[", "").replace("]", ""), found["root"])


def is_loopback(host: str) -> bool:
    """Whether a host is this very machine, which needs no encryption."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def bundle_name(place: Address) -> str:
    """What a folder for a bundle from there would be called."""
    if isinstance(place, Registry):
        return place.name.rpartition("/")[2]
    if isinstance(place, Web):
        return urlsplit(place.url).path.rstrip("/").rpartition("/")[2] or "bundle"
    return place.path.stem or "bundle"
