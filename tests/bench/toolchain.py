"""Times the toolchain itself, whole processes in turn: `make bench`.

Each command runs in a fresh process, all of them once a round, so that a drift of the machine's speed meets all alike;
ratios are taken round by round.
"""

from __future__ import annotations

import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploytool import machine

ROUNDS = 5
PYTHON = sys.executable
EXPORT = (PYTHON, "-m", "deploytool", "export", "shufflenet_g3", "--trt")
COMMANDS = {
    "import torch": (PYTHON, "-c", "import torch"),
    "deploytool --help": (PYTHON, "-m", "deploytool", "--help"),
    "deploytool models": (PYTHON, "-m", "deploytool", "models"),
    "export, cold": EXPORT,
    "export, repeated": EXPORT,
}
GOALS = (
    ("deploytool --help", "import torch", 0.3),
    ("deploytool models", "import torch", 0.3),
    ("export, repeated", "export, cold", 0.15),
)


def seconds(command: tuple[str, ...], folder: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(ROUNDS + 1):
            shutil.rmtree(folder / "artifacts", ignore_errors=True)
            for command, words in COMMANDS.items():
                taken[command].append(seconds(words, folder))
    counted = {name: each[1:] for name, each in taken.items()}  # the first round warms the disk's cache
    lines = [f"{machine.cpu()}, Python {platform.python_version()}, torch {machine.version('torch')}, {ROUNDS} rounds"]
    for name, each in counted.items():
        lines.append(f"{name:<20} {statistics.median(each):7.3f} s  ({min(each):.3f}–{max(each):.3f})")
    for fast, slow, goal in GOALS:
        ratios = [one / other for one, other in zip(counted[fast], counted[slow], strict=True)]
        reached = "reached" if statistics.median(ratios) <= goal else "MISSED"
        spread = f"({min(ratios):.3f}–{max(ratios):.3f})"
        lines.append(f"{fast} / {slow}: {statistics.median(ratios):.3f}× {spread}, goal {goal}×: {reached}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    lines.append(f"largest process: {peak:.0f} MiB")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
