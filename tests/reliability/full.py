"""Exports under file size limits and onto full disks: the error names a file in one line, and no complete run is lost.

`make reliability` runs it. Every export is forked from a process that has imported torch. The check of free disk space
is disabled, so that the writers run out of space. Small disks are mounted if the user is root.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import onnx  # noqa: F401  # imported before forking, like torch
import torch

import deploytool
from deploytool.errors import ResourceExhausted
from deploytool.host import disk
from deploytool.stages.registry import STAGES, import_stage
from tests.reliability.runs import digests

NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 64))
"""
_MAX_RUN_BYTES = 8_000_000  # more bytes than a run writes
_MAX_FILE_BYTES = 1_200_000  # more bytes than its largest file has


def export(net: Path, out: Path, seed: int) -> None:
    """One export with its bundle."""
    deploytool.export(f"{net}:make", inputs=[(3, 16, 16)], quick=True, pack=True, seed=seed, out=out).check()


def run_in_fork(work: Callable[[], None], output: Path) -> str:
    """Runs `work` in a fork; returns its error line, or an empty string. It must not print a traceback."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            with output.open("wb") as file:
                os.dup2(file.fileno(), 2)
            work()
            code = 0
        except ResourceExhausted as error:
            os.write(2, str(error).encode())
            code = 1
        except BaseException:  # the child must never return into the parent's code
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    code, line = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output.read_text(errors="replace").strip()
    assert code in (0, 1), f"ended with {code}: {line}"
    assert "Traceback" not in line, line
    assert "\n" not in line, line
    return line


def limited_file_sizes(folder: Path, count: int, draw: random.Random) -> int:
    """The number of exports that file size limits made fail; each must leave the previous run unchanged."""
    net, out, failed = folder / "net.py", folder / "out", 0
    net.write_text(NET, encoding="utf-8")
    assert run_in_fork(lambda: export(net, out, 0), folder / "output") == ""
    for turn in range(count):
        before, limit = digests(out), draw.randrange(_MAX_FILE_BYTES)

        def work(seed: int = turn + 1, limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            export(net, out, seed)

        if line := run_in_fork(work, folder / "output"):
            assert line.startswith(f"{out}/"), line
            assert "cannot be written: File too large" in line, line
            assert digests(out) == before, f"a limit of {limit} bytes changed the previous run"
            failed += 1
    assert run_in_fork(lambda: export(net, out, count + 1), folder / "output") == ""
    assert {path.name for path in folder.iterdir()} == {"net.py", "out", "output"}, "leftover files"
    return failed


def small_disks(folder: Path, count: int, draw: random.Random) -> int:
    """The number of exports that a full disk made fail; each must leave a previous run unchanged."""
    net, disk_folder, failed = folder / "net.py", folder / "disk", 0
    net.write_text(NET, encoding="utf-8")
    disk_folder.mkdir()
    for turn in range(count):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={draw.randrange(4096, _MAX_RUN_BYTES)}", "none", str(disk_folder)]
        subprocess.run(mount, check=True)
        try:
            before: dict[str, str] = {}
            for seed in (turn, turn + count):
                if line := run_in_fork(lambda seed=seed: export(net, disk_folder / "out", seed), folder / "output"):  # type: ignore[misc]
                    assert line.startswith(f"{disk_folder}/out"), line
                    assert "cannot be written: No space left on device" in line, line
                    assert not before or digests(disk_folder / "out") == before, "the previous run was changed"
                    failed += 1
                    break
                before = digests(disk_folder / "out")
        finally:
            subprocess.run(["umount", "-l", str(disk_folder)], check=True)
    return failed


def main() -> None:
    """Runs both campaigns and prints their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for stage in STAGES:
        import_stage(stage)
    disk.check = lambda *_: None  # exports that it refuses would not reach a writer
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        for campaign in (limited_file_sizes, small_disks) if os.geteuid() == 0 else (limited_file_sizes,):
            (Path(scratch) / campaign.__name__).mkdir()
            failed = campaign(Path(scratch) / campaign.__name__, args.count, draw)
            print(f"{campaign.__name__}: {failed} of {args.count} failed with one line, 0 with a traceback", flush=True)


if __name__ == "__main__":
    main()
