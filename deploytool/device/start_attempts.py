"""Counts the failed starts of a bundle that its own content caused: wrong bytes, wrong outputs, a crash while loading.

Faults of the machine or of the caller raise an error and are not counted, so that they do not discard a good bundle.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploytool.host import files, owner

_FAILED, _LOADING = "failed-", "loading-"
_MAX_REASON_BYTES = 4096
_CRASHED = "the process died while it loaded the bundle"
_BLOCKED_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


def record(folder: Path, reason: str) -> None:
    """Counts a failed start; does nothing where the folder cannot be written."""
    text = reason.encode(errors="backslashreplace")  # it may contain a file name that is not UTF-8
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{_FAILED}{owner.name()}").write_bytes(text[:_MAX_REASON_BYTES])


@contextmanager
def attempting(folder: Path) -> Iterator[None]:
    """Counts a failed start if this process dies in the body; blocks signals that ask it to end until then."""
    token = folder / f"{_LOADING}{owner.name()}"
    can_block = hasattr(signal, "pthread_sigmask")
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_SIGNALS) if can_block else set()
    try:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            token.touch()
        yield
    finally:
        with suppress(OSError):
            token.unlink(missing_ok=True)
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def forget(folder: Path) -> None:
    """Deletes the failed starts of a bundle, after a good start or a pardon."""
    for token in _failed_tokens(folder):
        with suppress(OSError):
            token.unlink(missing_ok=True)


def failures(folder: Path) -> tuple[str, ...]:
    """The reason of each failed start since the last good one; starts still under way are not among them."""
    return tuple(map(_reason, _failed_tokens(folder)))


def _failed_tokens(folder: Path) -> list[Path]:
    crashed = [token for token in folder.glob(f"{_LOADING}*") if _has_ended(token)]
    return sorted(folder.glob(f"{_FAILED}*")) + crashed


def _has_ended(token: Path) -> bool:
    """Whether the process of a token is known to have ended; unknown after a reboot, which no bundle causes."""
    process = owner.read(token.name)
    return process is not None and process.alive() is False


def _reason(token: Path) -> str:
    if token.name.startswith(_LOADING):
        return _CRASHED
    try:
        return files.read(token, _MAX_REASON_BYTES).decode(errors="replace")
    except Exception:  # the file is gone or cannot be read: the start counts all the same
        return "its reason cannot be read"
