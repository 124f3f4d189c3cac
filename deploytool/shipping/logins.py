"""Who we are at a registry: Basic, and the Bearer tokens that a registry hands out for it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from deploytool import plain
from deploytool.errors import BadInput

_PART = re.compile(r'(\w+)="([^"]*)"')


def read(path: Path) -> Mapping[str, str]:
    """What `docker login` left in a config.json: by host, the user and password in base64; empty without a file.

    A credential helper is not asked. Raises BadInput for a file that is none of docker's.
    """
    try:
        raw = path.read_bytes()
    except OSError:
        return {}
    try:
        entries = plain.loads(raw).get("auths", {})
        found = {host.removeprefix("https://").partition("/")[0]: _basic(entry) for host, entry in entries.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is no config.json of docker's: {error}", "log in again, or move it away") from error
    return {host: basic for host, basic in found.items() if basic}


def _basic(entry: Mapping[str, str]) -> str:
    if entry.get("auth"):
        return str(entry["auth"])
    if "username" in entry and "password" in entry:
        return base64.b64encode(f"{entry['username']}:{entry['password']}".encode()).decode()
    return ""


def challenge(header: str) -> tuple[str, Mapping[str, str]]:
    """How a WWW-Authenticate header wants us to prove who we are: basic or bearer, and what it says of it."""
    scheme, _, rest = header.partition(" ")
    return scheme.lower(), dict(_PART.findall(rest))
