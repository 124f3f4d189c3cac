"""Exports a made-up model beyond 2 GB, packs it, pushes it to a registry, pulls and verifies it, and measures memory.

    python -m tests.bench.large --layers 40 --width 4096 --out tests/bench/large.md

Each step is a process of its own. Its memory is the largest sum over the process and its children that /proc reports,
sampled: `resident` is the sum of proportional set sizes (PSS), which counts a page once whoever shares it, and
`anonymous` its part that is not in a file. The stages of the export are measured by `stage_memory`. The model's
weights are random, so it proves nothing about accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests import wide
from tests.bench import memory_sampler, stage_memory
from tests.transfer import servers

ROOT = Path(__file__).parents[2]
INTERVAL = 0.2  # seconds between samples


@dataclass(frozen=True)
class Step:
    """One command: its name, its duration in seconds, and the peaks of its memory in bytes."""

    name: str
    seconds: float
    resident: float
    anonymous: float


def measure(name: str, command: list[str], folder: Path) -> Step:
    """Runs a command in a folder and measures it; raises CalledProcessError if it fails."""
    start = time.monotonic()
    with subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        peaks, finished = [0.0, 0.0], threading.Event()

        def sample() -> None:
            while not finished.wait(INTERVAL):
                sums = [sum(values) for values in zip(*map(memory, memory_sampler.tree(process.pid)), strict=True)]
                peaks[:] = [max(pair) for pair in zip(peaks, sums or [0.0, 0.0], strict=True)]

        watcher = threading.Thread(target=sample)
        watcher.start()
        code = process.wait()
        finished.set()
        watcher.join()
    step = Step(name, time.monotonic() - start, *peaks)
    print(f"{name}: {step.seconds:.0f} s, {step.resident / 1e9:.2f} GB ({step.anonymous / 1e9:.2f})", flush=True)
    if code:
        raise subprocess.CalledProcessError(code, command)
    return step


def memory(process: int) -> tuple[float, float]:
    """The proportional set size of a process and its anonymous part in bytes; zeros if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    sizes = {line.split()[0]: float(line.split()[1]) * 1024 for line in lines[1:]}
    return sizes.get("Pss:", 0.0), sizes.get("Pss_Anon:", 0.0)


def steps(folder: Path, arguments: argparse.Namespace) -> tuple[list[Step], dict[str, stage_memory.Peak]]:
    """Runs the whole way, from the model to the verified bundle, with the memory of each stage of the export."""
    model = [f"{wide.__file__}:wide", "--arg", f"layers={arguments.layers}", "--arg", f"width={arguments.width}"]
    deploytool = [sys.executable, "-m", "tests.bench.stage_memory", str(arguments.limit)]
    export = ["export", *model, "--input", f"x={arguments.width}", "--quick", "--pack", "--out", "run"]
    done = [measure("export", [*deploytool, *export, *arguments.options.split()], folder)]
    report(folder / "run")
    stages = {
        name: stage_memory.Peak(**peak) for name, peak in json.loads((folder / stage_memory.FILE).read_text()).items()
    }
    with servers.registry(folder) as running:
        address = f"oci://127.0.0.1:{running.port}/wide:1"
        done.append(measure("push", [*deploytool, "push", "run/pack/bundle", address, "--plain-http"], folder))
        shutil.rmtree(folder / "run")
        done.append(measure("pull", [*deploytool, "pull", address, "--out", "bundle", "--plain-http"], folder))
    shutil.rmtree(folder / "storage")
    done.append(measure("verify", [*deploytool, "verify", "bundle"], folder))
    return done, stages


def report(run: Path) -> None:
    """Prints the sizes of the files of a run."""
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.stat().st_size > 1 << 20:
            print(f"  {path.relative_to(run)} {path.stat().st_size / 1e9:.2f} GB")


def stage_table(stages: dict[str, stage_memory.Peak], weights: float) -> str:
    """The anonymous memory of each stage as Markdown."""
    rows = [
        f"| {name} | {peak.seconds:.0f} s | {peak.own / 1e9:.1f} GB | {peak.own / weights:.1f} × "
        f"| {peak.all / 1e9:.1f} GB |"
        for name, peak in stages.items()
    ]
    heading = "| stage | time | largest process | per byte of weights | with children |\n|---|---|---|---|---|"
    return "\n".join([heading, *rows, ""])


def table(done: list[Step], weights: float) -> str:
    """The results as Markdown."""
    rows = [
        f"| {step.name} | {step.seconds:.0f} s | {step.resident / 1e9:.1f} GB | {step.anonymous / 1e9:.1f} GB "
        f"| {step.resident / weights:.1f} × |"
        for step in done
    ]
    heading = "| step | time | peak memory | of it not in files | per byte of weights |\n|---|---|---|---|---|"
    return "\n".join([heading, *rows, ""])


def main() -> None:
    """Measures, prints the table, and writes it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument(
        "--limit", type=int, default=0, help="bytes beyond which weights go to a side file; 0: the usual"
    )
    parser.add_argument("--options", default="", help="more options of the export")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    weights = 4.0 * arguments.layers * arguments.width**2
    with tempfile.TemporaryDirectory(prefix="large-") as folder:
        done, stages = steps(Path(folder), arguments)
    where = f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors"
    text = f"{weights / 1e9:.2f} GB of weights, on {where}\n\n{table(done, weights)}\n{stage_table(stages, weights)}"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
