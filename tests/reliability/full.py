"""Exports onto disks and under limits of every size: one line that names a file, and no good run lost.

`make reliability` runs it. Every export is a fork of one process that has torch imported. The check before the work is
left out, so that it is the writers themselves that meet the end of the disk. Small disks are mounted where we are root.
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

import onnx  # noqa: F401  # imported before the forks, as torch is
import torch

import deploytool
from deploytool.errors import NoRoom
from deploytool.host import disk
from deploytool.stages import STAGES, import_stage
from tests.reliability.runs import digests

NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 64))
"""
_MOST = 8_000_000  # bytes that a run leaves, and more
_LARGEST = 1_200_000  # bytes of its largest file, and more


def export(net: Path, out: Path, seed: int) -> None:
    """One export with its bundle."""
    deploytool.export(f"{net}:make", inputs=[(3, 16, 16)], quick=True, pack=True, seed=seed, out=out).check()


def outcome(work: Callable[[], None], said: Path) -> str:
    """What became of work that is done in a fork: nothing, or the line of its failure. No trace may be said."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            with said.open("wb") as file:
                os.dup2(file.fileno(), 2)
            work()
            code = 0
        except NoRoom as error:
            os.write(2, str(error).encode())
            code = 1
        except BaseException:  # a child must never come back into the parent's code
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    code, line = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text(errors="replace").strip()
    assert code in (0, 1), f"ended with {code}: {line}"
    assert "Traceback" not in line, line
    assert "\n" not in line, line
    return line


def limits(folder: Path, count: int, draw: random.Random) -> int:
    """How many exports under limits on the size of a file ended in one line; each time the good run must be whole."""
    net, out, failed = folder / "net.py", folder / "out", 0
    net.write_text(NET, encoding="utf-8")
    assert outcome(lambda: export(net, out, 0), folder / "said") == ""
    for turn in range(count):
        good, most = digests(out), draw.randrange(_LARGEST)

        def work(seed: int = turn + 1, most: int = most) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            export(net, out, seed)

        if line := outcome(work, folder / "said"):
            assert line.startswith(f"{out}/"), line
            assert "cannot be written: File too large" in line, line
            assert digests(out) == good, f"a limit of {most} bytes changed the good run"
            failed += 1
    assert outcome(lambda: export(net, out, count + 1), folder / "said") == ""
    assert {path.name for path in folder.iterdir()} == {"net.py", "out", "said"}, "there is litter"
    return failed


def disks(folder: Path, count: int, draw: random.Random) -> int:
    """How many exports onto small disks, over a good run where one fits, ended in one line that names a file there."""
    net, place, failed = folder / "net.py", folder / "disk", 0
    net.write_text(NET, encoding="utf-8")
    place.mkdir()
    for turn in range(count):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={draw.randrange(4096, _MOST)}", "none", str(place)]
        subprocess.run(mount, check=True)
        try:
            good: dict[str, str] = {}
            for seed in (turn, turn + count):
                if line := outcome(lambda seed=seed: export(net, place / "out", seed), folder / "said"):  # type: ignore[misc]
                    assert line.startswith(f"{place}/out"), line
                    assert "cannot be written: No space left on device" in line, line
                    assert not good or digests(place / "out") == good, "the good run was changed"
                    failed += 1
                    break
                good = digests(place / "out")
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
    return failed


def main() -> None:
    """Runs both and prints what came of them."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--count", type=int, default=100)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    torch.set_num_threads(1)
    for verb in STAGES:
        import_stage(verb)
    disk.check = lambda *_: None  # what it refuses would never reach a writer
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        for campaign in (limits, disks) if os.geteuid() == 0 else (limits,):
            (Path(scratch) / campaign.__name__).mkdir()
            failed = campaign(Path(scratch) / campaign.__name__, given.count, draw)
            print(f"{campaign.__name__}: {failed} of {given.count} ended in one line, 0 in a trace", flush=True)


if __name__ == "__main__":
    main()
