"""Identifies the process that made an unfinished file or folder, and whether that process has ended.

The name of the file contains the process, so that no lock is needed: locks do nothing on some network disks.
"""

from __future__ import annotations

import os
import platform
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ABANDONED_S = 3600.0  # age at which a file is abandoned if its process cannot be checked

_NAME = re.compile(r"(?P<machine>[0-9a-f]{12})-(?P<pid>\d{1,10})-(?P<started>\d{1,20})-(?P<serial>[0-9a-f]{8})")


@dataclass(frozen=True)
class Owner:
    """A process: an identifier of its machine since the last boot (12 hex digits), its PID and its start time.

    `started` is in clock ticks since boot, 0 where unknown.
    """

    machine: str
    pid: int
    started: int

    def alive(self) -> bool | None:
        """Whether the process still runs; None where that is unknown, as on another machine."""
        if self.machine != _machine():
            return None
        if not hasattr(os, "fork"):  # Windows, where os.kill would end the process
            return True if self.pid == os.getpid() else None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True  # a process of another user
        return self.started == _started(self.pid)


def name() -> str:
    """A new unique name that contains this process; `read` parses it."""
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid())}-{uuid.uuid4().hex[:8]}"


def read(text: str) -> Owner | None:
    """The owner that a name contains; None if it contains none."""
    match = _NAME.search(text)
    return Owner(match["machine"], int(match["pid"]), int(match["started"])) if match else None


def is_abandoned(path: Path) -> bool:
    """Whether the process that made a file has ended, or is unknown and the file is an hour old."""
    owner = read(path.name)
    alive = owner.alive() if owner else None
    if alive is not None:
        return not alive
    try:
        return time.time() - path.lstat().st_mtime > ABANDONED_S
    except OSError:
        return False  # it was removed meanwhile


def is_mine(status: os.stat_result) -> bool:
    """Whether this user owns a file; True where the system has no comparable owners."""
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def is_trusted(status: os.stat_result) -> bool:
    """Whether this user or root owns a file."""
    return is_mine(status) or status.st_uid == 0


def grants(status: os.stat_result, bits: int) -> bool:
    """Whether a file's mode has any of these bits; False where the mode does not describe permissions."""
    return hasattr(os, "geteuid") and bool(status.st_mode & bits)


@cache
def _machine() -> str:
    """An identifier of the machine, its last boot, and the process namespace."""
    parts = [platform.node()]
    for file in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        with suppress(OSError):
            parts.append(Path(file).read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  # not a path, but a name such as pid:[4026531836]
    return uuid.uuid5(uuid.NAMESPACE_OID, "\n".join(parts)).hex[:12]


def _started(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19])  # field 22 (starttime) of proc(5); two are before the bracket
    except (OSError, ValueError, IndexError):
        return 0
