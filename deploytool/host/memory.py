"""Measures the memory that is available to this process and its children, under all limits."""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploytool.host import control_groups

REMEDY = "stop other programs, or use a machine with more memory"

WORTHWHILE = 500_000_000  # resident bytes more than after the last release, from which the next one pays
_kept = [0]  # the resident bytes after the last release
_UNLIMITED = 1 << 60  # cgroups v1 report such a number without a limit
_GROUP_FILES = {  # of the versions of control groups: the limit, the usage, and the counter of cached pages
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def resident_bytes() -> int:
    """The resident bytes of this process; 0 where unknown."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


def release_unused() -> None:
    """Frees what only reference cycles hold, and returns freed memory to the system: glibc keeps blocks of up to 32 MB.

    Does nothing if the process has hardly grown since the last time: looking through a large heap takes seconds.
    """
    if resident_bytes() - _kept[0] < WORTHWHILE:
        return
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library has no such function
            ctypes.CDLL(None).malloc_trim(0)
    _kept[0] = resident_bytes()


def private_bytes() -> int | None:
    """The size of this process's private writable memory (VmData) in bytes, resident or not; None where unknown."""
    with suppress(OSError, UnicodeError):
        match = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
        return int(match[1]) << 10 if match else None
    return None


@contextmanager
def limited(max_bytes: int) -> Iterator[None]:
    """Limits the memory that `private_bytes` counts to `max_bytes`, where it can be counted.

    A larger allocation fails: MemoryError in Python, the library's own error elsewhere.
    """
    with _soft_limit(max_bytes):
        yield


@contextmanager
def unlimited() -> Iterator[None]:
    """Lifts the limit of an enclosing `limited` in the body; the hard limit of the process remains."""
    with _soft_limit(None):
        yield


@contextmanager
def _soft_limit(max_bytes: int | None) -> Iterator[None]:
    """Sets the soft limit of private memory in the body, to the hard limit without `max_bytes`."""
    try:
        import resource  # on Unix only
    except ImportError:
        resource = None  # type: ignore[assignment]
    if resource is None or private_bytes() is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lowest = hard
    if max_bytes is not None:
        lowest = min([max_bytes, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_DATA, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def available_bytes() -> int | None:
    """The bytes that this process and its children can still allocate; None where unknown."""
    return min((*_machine(), *_control_groups(), *_address_space()), default=None)


def _machine() -> Iterator[int]:
    with suppress(OSError):
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
        if match:
            yield int(match[1]) << 10


def _control_groups() -> Iterator[int]:
    """The bytes that each control group of this process still allows; cached pages of files count as available."""
    for folder, version in control_groups.folders("memory"):
        limit, usage, cached = _GROUP_FILES[version]
        with suppress(OSError, ValueError):  # ValueError: the limit is "max"
            most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
            counters = (folder / "memory.stat").read_text(encoding="ascii")
            reclaimable = re.search(rf"^{cached} (\d+)$", counters, re.MULTILINE)
            if most < _UNLIMITED:
                yield max(most - used + (int(reclaimable[1]) if reclaimable else 0), 0)


def _address_space() -> Iterator[int]:
    """The rest of the address space that `ulimit -v` allows."""
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource  # on Unix only

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        if most != resource.RLIM_INFINITY:
            yield max(most - pages * mmap.PAGESIZE, 0)
