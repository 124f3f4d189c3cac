"""Limits the memory of a child process while it opens and runs a model, by what the manifest states."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from deploytool.backends.session import load_backend
from deploytool.device.candidates import Candidate
from deploytool.errors import ChildDied, OutOfMemory, ResourceExhausted
from deploytool.host import disk, files, memory

_MEBIBYTE = 1 << 20
_BYTES_PER_PROCESSOR = _MEBIBYTE  # a thread allocates about this much for itself
_SMALLEST_GRAPH = (  # y = x, as ONNX: a session of it starts as many threads as any other session
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@contextmanager
def bounded(candidate: Candidate, at_least_mib: int = 0) -> Iterator[None]:
    """Limits this process to the memory of an empty session plus what the manifest states for a candidate.

    A part of what is run there may need `at_least_mib`, as the manifest states too.

    No limit is set on a GPU, nor where the manifest states no memory; the limit of the child process then holds alone.
    Raises ChildDied if the body needs more, and ResourceExhausted if the machine itself has less available.
    """
    if candidate.memory_mib is None or candidate.device != "cpu":
        yield
        return
    stated = max(candidate.memory_mib, at_least_mib)
    allowed, available = stated * _MEBIBYTE, memory.available_bytes()
    try:
        with load_backend(candidate.backend).start(_SMALLEST_GRAPH):
            empty_session = memory.private_bytes() or 0
        with memory.limited(empty_session + allowed + (os.cpu_count() or 1) * _BYTES_PER_PROCESSOR):
            yield
    except (MemoryError, OutOfMemory) as error:
        if available is not None and available < allowed:
            problem = f"it may take {disk.size(allowed)} of memory, and {disk.size(available)} are available"
            raise ResourceExhausted(problem, memory.REMEDY) from error
        problem = f"it takes more memory than its manifest states, {stated} MiB"
        raise ChildDied(problem, f"{files.FETCH_AGAIN}, or report it") from error
