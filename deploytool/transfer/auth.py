"""Reads registry credentials from docker's config.json and credential helpers, and parses authentication challenges."""

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
_SECONDS = 60.0  # a helper may prompt for a password
_HUB, _HUB_KEY = ("docker.io", "index.docker.io", "registry-1.docker.io"), "https://index.docker.io/v1/"
_TOKEN = "<token>"  # the user name where a helper stores an identity token instead of a password


@dataclass(frozen=True)
class Credentials:
    """User and password in base64 by host, and credential helpers: by host, and `store` for all other hosts."""

    known: Mapping[str, str] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    store: str = ""

    def of(self, base: str) -> str | None:
        """User and password for the server of a URL, in base64; None where none are stored.

        Raises BadInput if a helper cannot be run, or stores an identity token.
        """
        parts = urlsplit(base)
        hosts = [parts.netloc, *([_HUB_KEY, "index.docker.io"] if parts.netloc in _HUB else [])]
        helper = next((self.helpers[host] for host in hosts if host in self.helpers), self.store)
        answers = (_run_helper(helper, host) for host in hosts if helper)
        stored = next((answer for answer in answers if answer), None)
        return stored or next((self.known[host] for host in (*hosts, parts.hostname or "") if host in self.known), None)


def config_path(folder: str | None) -> Path | None:
    """Docker's config.json in a folder, by default ~/.docker; None if the user has no home folder."""
    try:
        return Path(folder or "~/.docker").expanduser() / "config.json"
    except RuntimeError:
        return None


def read_config(path: Path | None) -> Credentials:
    """Parses docker's config.json; empty if it cannot be read. Raises BadInput if it is malformed."""
    try:
        raw = path.read_bytes() if path else b"{}"
    except OSError:
        return Credentials()
    try:
        whole = serde.loads(raw)
        entries = whole.get("auths") or {}
        known = {host.removeprefix("https://").partition("/")[0]: _basic(entry) for host, entry in entries.items()}
        helpers = serde.decode(dict[str, str], whole.get("credHelpers") or {})
        store = serde.decode(str, whole.get("credsStore") or "")
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{path} is not a config.json of docker: {error}", "run `docker login` again, or move the file away"
        ) from error
    return Credentials({host: basic for host, basic in known.items() if basic}, helpers, store)


def _basic(entry: Mapping[str, str]) -> str:
    if entry.get("auth"):
        return str(entry["auth"])
    if "username" in entry and "password" in entry:
        return _encoded(entry["username"], entry["password"])
    return ""


def _encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _run_helper(helper: str, host: str) -> str | None:
    """The credentials that `docker-credential-HELPER get` prints for a host; None if it has none."""
    if not _HELPER.fullmatch(helper):
        raise BadInput(f"{helper[:64]!r} is not a valid name of a credential helper", "correct docker's config.json")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, "get"], input=host.encode(), capture_output=True, timeout=_SECONDS, check=False)
    except FileNotFoundError as error:
        raise BadInput(f"{program} is not installed", "install it, or remove it from docker's config.json") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput(
            f"{program} failed: {error}", "run it by hand, or remove it from docker's config.json and log in again"
        ) from error
    if done.returncode != 0:
        return None  # credentials not found, which each helper reports in other words
    try:
        answer = serde.decode(_HelperAnswer, json.loads(done.stdout))
    except ValueError as error:
        raise BadInput(f"{program} printed an invalid answer: {error}", "log in again") from error
    if answer.Username == _TOKEN:
        raise BadInput(f"{program} stores an identity token for {host}, not a password", "log in with an access token")
    return _encoded(answer.Username, answer.Secret)


@dataclass(frozen=True)
class _HelperAnswer:
    """The JSON document that a helper prints, with its own field names."""

    Username: str
    Secret: str


def parse_challenge(header: str) -> tuple[str, Mapping[str, str]]:
    """Parses a WWW-Authenticate header: the scheme in lower case, and its parameters."""
    scheme, _, rest = header.partition(" ")
    return scheme.lower(), dict(_PART.findall(rest))
