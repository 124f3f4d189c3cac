"""Parses the address of a bundle: OCI registry, archive file, web server, folder, or device."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploytool.errors import BadInput

_HOST = r"(?P<host>[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?P<port>:\d+)?"
_NAME = r"(?P<name>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
_OCI = re.compile(
    rf"oci://{_HOST}/{_NAME}(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?", re.A
)
_DEVICE = re.compile(r"(?P<host>(?:[\w.-]+@)?[A-Za-z0-9][\w.-]*|(?:[\w.-]+@)?\[[0-9a-fA-F:]+\]):(?P<root>/.*)", re.A)
_ARCHIVE = "oci-archive:"


@dataclass(frozen=True)
class Registry:
    """A repository in an OCI registry; `base` is its scheme and host, and a `digest` takes precedence over the tag."""

    base: str
    name: str
    tag: str
    digest: str | None = None

    def __str__(self) -> str:
        suffix = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"oci://{urlsplit(self.base).netloc}/{self.name}{suffix}"


@dataclass(frozen=True)
class Archive:
    """An OCI image layout in an uncompressed tar file."""

    path: Path


@dataclass(frozen=True)
class Web:
    """A bundle's folder on a web server; the address ends with a slash."""

    url: str


@dataclass(frozen=True)
class Folder:
    """A bundle's folder in the file system."""

    path: Path


@dataclass(frozen=True)
class Device:
    """A folder on a device that is reached by ssh."""

    host: str
    root: str


Address = Registry | Archive | Web | Folder


def parse(text: str, *, plain_http: bool = False, ca: Path | None = None) -> Address:
    """Parses an address.

    Without TLS (`http`) only loopback addresses are used, unless `plain_http` is set. With a `ca`, those use TLS too.
    Raises BadInput for an invalid address.
    """
    if plain_http and ca is not None:
        raise BadInput("--plain-http and --ca are mutually exclusive", "--ca is for TLS: leave one of them out")
    if text.startswith("oci://"):
        return _registry(text, plain_http, ca)
    if text.startswith(_ARCHIVE):
        return Archive(Path(text.removeprefix(_ARCHIVE)))
    if text.startswith(("http://", "https://")):
        return _web(text, plain_http)
    if "://" in text:
        raise BadInput(f"unsupported address {text}", "use oci://, oci-archive:, https:// or a folder")
    return Folder(Path(text))


def _web(text: str, plain_http: bool) -> Web:
    parts = urlsplit(text) if _names_server(text) else None
    if parts is None or parts.query or parts.fragment or "@" in parts.netloc:
        raise BadInput(f"{text} is not the address of a folder", "write https://server/path/to/bundle/")
    if parts.scheme == "http" and not plain_http and not is_loopback(parts.hostname or ""):
        raise BadInput(f"{text} is not encrypted", "use https://, or allow it with --plain-http")
    return Web(text if text.endswith("/") else f"{text}/")


def _names_server(url: str) -> bool:
    """Whether a URL is printable and names a host, and a port from 1 to 65535 if any."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        return False


def _registry(text: str, plain_http: bool, ca: Path | None) -> Registry:
    match = _OCI.fullmatch(text)
    if match is None or not _names_server(text):
        raise BadInput(
            f"{text} is not the address of an artifact in a registry",
            "write oci://host:port/name:tag, or …/name@sha256:…",
        )
    scheme = "http" if plain_http or (is_loopback(match["host"]) and ca is None) else "https"
    base = f"{scheme}://{match['host']}{match['port'] or ''}"
    return Registry(base, match["name"], match["tag"] or "latest", match["digest"])


def parse_device(text: str) -> Device:
    """Parses `user@device:/root`; raises BadInput for anything else."""
    match = _DEVICE.fullmatch(text)
    if match is None:
        raise BadInput(f"{text} is not a folder on a device", "write user@device:/path/to/root")
    return Device(match["host"].replace("[", "").replace("]", ""), match["root"])


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, which needs no encryption."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def bundle_name(address: Address) -> str:
    """The default name of the folder for a bundle from this address."""
    if isinstance(address, Registry):
        return address.name.rpartition("/")[2]
    if isinstance(address, Web):
        return urlsplit(address.url).path.rstrip("/").rpartition("/")[2] or "bundle"
    return address.path.stem or "bundle"
