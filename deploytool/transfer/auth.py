"""Who we are at a registry: what `docker login` left, or what a credential helper says, and how a registry asks."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from deploytool import serde
from deploytool.errors import BadInput

_PART = re.compile(r'(\w+)="([^"]*)"')
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SECONDS = 60.0  # a helper may ask a person for a password
_HUB, _HUBS_KEY = ("docker.io", "index.docker.io", "registry-1.docker.io"), "https://index.docker.io/v1/"
_TOKEN = "<token>"  # a helper's user name if its secret is no password


@dataclass(frozen=True)
class Credentials:
    """User and password in base64 by host, and the credential helpers: by host, and `store` for all others."""

    known: Mapping[str, str] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    store: str = ""

    def of(self, base: str) -> str | None:
        """User and password for the server of an address, in base64; None where we have none.

        Raises BadInput if a helper cannot be asked, or keeps what is no password.
        """
        parts = urlsplit(base)
        hosts = [parts.netloc, *([_HUBS_KEY, "index.docker.io"] if parts.netloc in _HUB else [])]
        helper = next((self.helpers[host] for host in hosts if host in self.helpers), self.store)
        said = (_asked(helper, host) for host in hosts if helper)
        found = next((one for one in said if one), None)
        return found or next((self.known[host] for host in (*hosts, parts.hostname or "") if host in self.known), None)


def config_path(folder: str | None) -> Path | None:
    """Docker's config.json, in the folder that its user names or in his home; None where he has none."""
    try:
        return Path(folder or "~/.docker").expanduser() / "config.json"
    except RuntimeError:
        return None


def read_config(path: Path | None) -> Credentials:
    """What a config.json of docker's holds; nothing without a file. Raises BadInput for a file that is none."""
    try:
        raw = path.read_bytes() if path else b"{}"
    except OSError:
        return Credentials()
    try:
        whole = serde.loads(raw)
        entries = whole.get("auths") or {}
        found = {host.removeprefix("https://").partition("/")[0]: _basic(entry) for host, entry in entries.items()}
        helpers = serde.decode(dict[str, str], whole.get("credHelpers") or {})
        store = serde.decode(str, whole.get("credsStore") or "")
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is no config.json of docker's: {error}", "log in again, or move it away") from error
    return Credentials({host: basic for host, basic in found.items() if basic}, helpers, store)


def _basic(entry: Mapping[str, str]) -> str:
    if entry.get("auth"):
        return str(entry["auth"])
    if "username" in entry and "password" in entry:
        return _encoded(entry["username"], entry["password"])
    return ""


def _encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _asked(helper: str, host: str) -> str | None:
    """What `docker-credential-HELPER get` says of a host; None if it knows nothing of it."""
    if not _HELPER.fullmatch(helper):
        raise BadInput(f"{helper[:64]!r} is no name of a credential helper", "mend docker's config.json")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, "get"], input=host.encode(), capture_output=True, timeout=_SECONDS, check=False)
    except FileNotFoundError as error:
        raise BadInput(f"{program} is not installed", "install it, or take it out of docker's config.json") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput(f"{program} does not answer: {error}", "see what it waits for, or log in without it") from error
    if done.returncode != 0:
        return None  # it says 'credentials not found in native keychain', each helper in its own words
    try:
        said = serde.decode(_Said, json.loads(done.stdout))
    except ValueError as error:
        raise BadInput(f"{program} answers nonsense: {error}", "log in again") from error
    if said.Username == _TOKEN:
        raise BadInput(f"{program} keeps a token for {host}, no password", "log in with an access token")
    return _encoded(said.Username, said.Secret)


@dataclass(frozen=True)
class _Said:
    """A helper's answer, in its own words."""

    Username: str
    Secret: str


def parse_challenge(header: str) -> tuple[str, Mapping[str, str]]:
    """How a WWW-Authenticate header wants us to prove who we are: basic or bearer, and what it says of it."""
    scheme, _, rest = header.partition(" ")
    return scheme.lower(), dict(_PART.findall(rest))
