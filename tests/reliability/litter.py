"""Kills commands that write files at random moments: the next command or `clean` must remove their leftovers.

`make reliability` runs it. After the kills all files are made two hours old and `clean` removes what it finds; only the
outputs of finished commands may remain.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx  # noqa: F401  # imported before forking, like torch
import torch

from deploytool.bundle.manifest import read_manifest
from deploytool.cli import clean as cleaning
from deploytool.cli import pack
from deploytool.device import install
from deploytool.host import scratch
from deploytool.run_folder import leftovers
from deploytool.stages.registry import STAGES, import_stage
from deploytool.transfer import oci_archive, pull, sources
from tests.reliability import runs
from tests.reliability.forks import fork
from tests.transfer import small

_SIZE = 2_000_000  # bytes of each file of a bundle
_ALLOWED = {"root", "model.tar", "packed", "pulled", "run"}


def _work(folder: Path) -> list[Callable[[], None]]:
    bundle, home, source = folder / "in", folder / "home", sources._FolderSource(folder / "in")
    return [
        lambda: _ignore(oci_archive.write(bundle, read_manifest(bundle), home / "model.tar")),
        lambda: _ignore(pull.pull(source, home / "pulled", None, say=lambda line: None)),
        lambda: _ignore(install.install(bundle, home / "root", lambda checked: None)),
        lambda: pack._copy(bundle, home / "packed"),
        lambda: runs.export(folder / "net.py", home / "run", int(time.monotonic() * 1000)),
        lambda: _scratch(folder / "tmp"),
    ]


def _ignore(result: object) -> None:
    """Discards the result of a call."""


def _scratch(above: Path) -> None:
    tempfile.tempdir = str(above)
    with scratch.folder() as temporary:
        (temporary / "file").write_bytes(bytes(_SIZE))
        time.sleep(0.05)


def make_old(folder: Path) -> None:
    """Sets the times of a folder and its files to two hours ago."""
    two_hours_ago = time.time() - 7200
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (two_hours_ago, two_hours_ago), follow_symlinks=False)


def kill_commands(folder: Path, count: int, draw: random.Random) -> tuple[int, int]:
    """Starts and kills `count` processes; returns how many were killed in time and how many leftovers `clean` found."""
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    (folder / "net.py").write_text(runs.NET, encoding="utf-8")
    small.make_bundle(folder / "in", 1, _SIZE)
    killed = 0
    for turn in range(count):
        work = draw.choice(_work(folder))
        child = fork(work, folder / "output")
        time.sleep(draw.uniform(0, 1.0 if turn % 3 == 0 else 0.15))
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    tempfile.tempdir = str(folder / "tmp")
    with scratch.folder():
        pass
    assert not list((folder / "tmp").iterdir()), "temporary folders remain"
    make_old(folder / "home")
    leftover_paths = cleaning._find([folder / "home"])
    assert leftovers.remove(leftover_paths) == []
    assert {path.name for path in (folder / "home").iterdir()} <= _ALLOWED, sorted((folder / "home").iterdir())
    root = folder / "home" / "root"
    if root.is_dir():
        names = {path.name for path in root.iterdir()}
        assert names <= {".lock", "current", "bundles", "starts"}, names
    for work in _work(folder)[:3]:
        work()
    return killed, len(leftover_paths)


def main() -> None:
    """Runs the campaign and prints its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for stage in STAGES:
        import_stage(stage)
    with tempfile.TemporaryDirectory() as folder:
        killed, leftover = kill_commands(Path(folder), args.count, random.Random(args.seed))
    print(
        f"{killed} of {args.count} killed in time; clean found {leftover} leftovers, and nothing else remained",
        flush=True,
    )


if __name__ == "__main__":
    main()
