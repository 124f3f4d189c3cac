"""Tells a login that is refused, which no further attempt changes, from a device that does not answer."""

from __future__ import annotations

from deploytool.errors import BadInput, DeployError, Unreachable

_HOST_KEY = "Host key verification failed"
_NO_LOGIN = "Permission denied ("


def failure(device: str, said: str, retry: str) -> DeployError:
    """The error for a connection that failed: BadInput for a refused login, else Unreachable with the remedy `retry`.

    `device` is its name, and `said` the last line of ssh.
    """
    if said.startswith(_HOST_KEY):
        remedy = "compare what `ssh-keyscan HOST` shows with the device itself, and add it to known_hosts"
        problem = f"the host key of {device} is not in known_hosts, or another one is: {said}"
        return BadInput(problem, f"{remedy}, after `ssh-keygen -R HOST` for an old one")
    if _NO_LOGIN in said:
        remedy = f"try `ssh -o BatchMode=yes` to it: {device} must take a key of this user without a password"
        return BadInput(f"{device} refuses the login: {said}", remedy)
    return Unreachable(f"{device} does not answer: {said or 'the connection was closed'}", retry)
