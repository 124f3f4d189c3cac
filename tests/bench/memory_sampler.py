"""Samples the anonymous memory of a process and its children from outside: `python -m tests.bench.memory_sampler PID`.

Each line on stdin begins a phase of that name. At the end of stdin, the largest values of each phase are written as
JSON. A thread of the process itself would sleep while a library holds the interpreter's lock.

Memory is RssAnon of /proc: what is mapped from files (weights, side files, libraries) does not count, since the kernel
can drop it at any time.
"""

from __future__ import annotations

import json
import os
import select
import sys
from contextlib import suppress
from pathlib import Path

INTERVAL = 0.01  # seconds between samples of the process; its children are sampled every tenth time


def anonymous(process: int) -> int:
    """The resident anonymous bytes of a process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    processes = [root]
    for process in processes:
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            with suppress(OSError):  # it has ended
                processes += map(int, children.read_text(encoding="ascii").split())
    return processes


def main() -> None:
    """Samples until stdin ends."""
    process, phase, number, peaks = int(sys.argv[1]), "", 0, dict[str, list[int]]()
    while True:
        if select.select([0], [], [], INTERVAL)[0]:
            lines = os.read(0, 1 << 16).decode()
            if not lines:
                break
            phase = lines.splitlines()[-1]
        own, everything = peaks.setdefault(phase, [0, 0])
        family = [each for each in tree(process) if each != os.getpid()] if number % 10 == 0 else [process]
        peaks[phase] = [max(own, anonymous(process)), max(everything, sum(map(anonymous, family)))]
        number += 1
    json.dump(peaks, sys.stdout)


if __name__ == "__main__":
    main()
