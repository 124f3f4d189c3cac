"""Counts the starts of a bundle that failed by its own fault: its bytes, its answers, or a process that died of it.

What the machine or the caller did wrong is an error and no failed start: a good bundle must not be given up for it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploytool.host import files, owner

_FAILED, _LOADING = "failed-", "loading-"
_LONGEST = 4096  # bytes of a reason
_DIED = "the process died while it loaded the bundle"
_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


def record(folder: Path, reason: str) -> None:
    """Counts a start that failed; where nothing can be written, nothing is counted."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{_FAILED}{owner.name()}").write_text(reason[:_LONGEST], encoding="utf-8")


@contextmanager
def attempting(folder: Path) -> Iterator[None]:
    """Counts as a failed start if this process dies meanwhile, unless somebody asked it to end: that has to wait."""
    token = folder / f"{_LOADING}{owner.name()}"
    can_wait = hasattr(signal, "pthread_sigmask")
    waiting = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS) if can_wait else set()
    try:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            token.touch()
        yield
    finally:
        with suppress(OSError):
            token.unlink(missing_ok=True)
        if can_wait:
            signal.pthread_sigmask(signal.SIG_SETMASK, waiting)


def forget(folder: Path) -> None:
    """Wipes out the failures of a bundle: only those in a row count, and a bundle may be pardoned."""
    for token in _counted(folder):
        with suppress(OSError):
            token.unlink(missing_ok=True)


def failures(folder: Path) -> tuple[str, ...]:
    """Why the starts since the last good one failed; those that are under way do not count."""
    return tuple(map(_reason, _counted(folder)))


def _counted(folder: Path) -> list[Path]:
    died = [token for token in folder.glob(f"{_LOADING}*") if _is_dead(token)]
    return sorted(folder.glob(f"{_FAILED}*")) + died


def _is_dead(token: Path) -> bool:
    """Whether the process is known to have ended; a machine that went down in the middle is not the bundle's fault."""
    found = owner.read(token.name)
    return found is not None and found.alive() is False


def _reason(token: Path) -> str:
    if token.name.startswith(_LOADING):
        return _DIED
    try:
        return files.read(token, _LONGEST).decode(errors="replace")
    except Exception:  # it is gone, or cannot be read: the start counts all the same
        return "its reason cannot be read"
