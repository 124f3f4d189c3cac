"""Bounds the memory of a child while it opens and runs what a bundle brings, by what its manifest states."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from deploytool.backends.session import load_backend
from deploytool.device.candidates import Candidate
from deploytool.errors import ChildDied, NoRoom, OutOfMemory
from deploytool.host import disk, files, memory

_MEBIBYTE = 1 << 20
_EACH = _MEBIBYTE  # bytes for each processor: what a thread allocates for itself
_LEAST = (  # the least graph there is, y = x: a session of it has all threads that any other has
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@contextmanager
def bounded(way: Candidate) -> Iterator[None]:
    """Within, this process takes no more than the manifest states for a way, beyond an empty session with its threads.

    On a GPU, and where the manifest states nothing, the limit of the child alone holds.
    Raises ChildDied if what runs within asks for more, NoRoom if it is the machine that has no more.
    """
    if way.memory_mib is None or way.device != "cpu":
        yield
        return
    allowed, there = way.memory_mib * _MEBIBYTE, memory.available_bytes()
    try:
        with load_backend(way.backend).start(_LEAST):
            empty = memory.private() or 0
        with memory.limited(empty + allowed + (os.cpu_count() or 1) * _EACH):
            yield
    except (MemoryError, OutOfMemory) as error:
        if there is not None and there < allowed:
            problem = f"it may take {disk.size(allowed)} of memory, and there are {disk.size(there)}"
            raise NoRoom(problem, memory.REMEDY) from error
        problem = f"it takes more memory than its manifest states, {way.memory_mib} MiB"
        raise ChildDied(problem, f"{files.AGAIN}, or report it") from error
