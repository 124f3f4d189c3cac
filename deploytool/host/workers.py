"""Builds the commands that run a worker module in a child process, and states the limits of such a child.

A worker module has a function `main(*arguments: str)`. It imports its heavy library first and then reads its task, one
line of JSON, from stdin, so that `process.start_ahead` can start it before the task is known.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploytool.host import side_files, worker_main

MEMORY_GIB = 8.0  # limit on the address space of each worker
MAX_FILE_BYTES = 16 << 30  # limit in bytes for workers that write an artifact


def memory_gib(graph: Path) -> float:
    """The limit for a worker that opens a graph: weights in a side file come on top, read and arranged anew."""
    has_side_file = side_files.side_file(graph).exists()
    return MEMORY_GIB + (3 * side_files.total_size(graph) / (1 << 30) if has_side_file else 0)


_MAIN = str(Path(worker_main.__file__).resolve())


def command(module: str, *arguments: str) -> tuple[str, ...]:
    """The command line that runs `main(*arguments)` of a module, e.g. "deploytool.device.worker".

    The child imports this deploytool and the installed libraries, and nothing from the working folder.
    """
    return (sys.executable, _MAIN, module, *arguments)
