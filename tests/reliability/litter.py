"""Kills everything that writes, at random moments: what is left is swept by the next command, or shown by `clean`.

`make reliability` runs it. After so many kills every folder is made two hours old, `clean` is asked what it would
remove, and removes it; then nothing may lie there but what finished commands made.
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

import onnx  # noqa: F401  # imported before the forks, as torch is
import torch

from deploytool.bundle.manifest import read_manifest
from deploytool.cli import clean as cleaning
from deploytool.cli import pack
from deploytool.device import install
from deploytool.host import scratch
from deploytool.run_folder import leftovers
from deploytool.stages import STAGES, import_stage
from deploytool.transfer import oci_archive, pull, sources
from tests.reliability import runs
from tests.reliability.forks import forked
from tests.transfer import small

_SIZE = 2_000_000  # bytes of each file of a bundle
_KNOWN = {"root", "model.tar", "packed", "pulled", "run"}


def _work(folder: Path) -> list[Callable[[], None]]:
    made, home, source = folder / "in", folder / "home", sources._FromFolder(folder / "in")
    return [
        lambda: _done(oci_archive.write(made, read_manifest(made), home / "model.tar")),
        lambda: _done(pull.pull(source, home / "pulled", None, say=lambda line: None)),
        lambda: _done(install.install(made, home / "root", lambda papers: None)),
        lambda: pack._copy(made, home / "packed"),
        lambda: runs.export(folder / "net.py", home / "run", int(time.monotonic() * 1000)),
        lambda: _scratch(folder / "tmp"),
    ]


def _done(made: object) -> None:
    """Whatever came of it, it was made."""


def _scratch(above: Path) -> None:
    tempfile.tempdir = str(above)
    with scratch.folder() as made:
        (made / "file").write_bytes(bytes(_SIZE))
        time.sleep(0.05)


def aged(folder: Path) -> None:
    """Makes all that lies in a folder two hours old."""
    ago = time.time() - 7200
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (ago, ago), follow_symlinks=False)


def kills(folder: Path, count: int, draw: random.Random) -> tuple[int, int]:
    """How many of so many processes were killed in time, and how many things `clean` found after them."""
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    (folder / "net.py").write_text(runs.NET, encoding="utf-8")
    small.made(folder / "in", 1, _SIZE)
    killed = 0
    for turn in range(count):
        work = draw.choice(_work(folder))
        child = forked(work, folder / "said")
        time.sleep(draw.uniform(0, 1.0 if turn % 3 == 0 else 0.15))
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    tempfile.tempdir = str(folder / "tmp")
    with scratch.folder():
        pass
    assert not list((folder / "tmp").iterdir()), "scratch folders stay"
    aged(folder / "home")
    left = cleaning._found([folder / "home"])
    assert leftovers.remove(left) == []
    assert {path.name for path in (folder / "home").iterdir()} <= _KNOWN, sorted((folder / "home").iterdir())
    root = folder / "home" / "root"
    if root.is_dir():
        names = {path.name for path in root.iterdir()}
        assert names <= {".lock", "current", "bundles", "starts"}, names
    for work in _work(folder)[:3]:
        work()
    return killed, len(left)


def main() -> None:
    """Runs it and prints what came of it."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--count", type=int, default=300)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    torch.set_num_threads(1)
    for verb in STAGES:
        import_stage(verb)
    with tempfile.TemporaryDirectory() as made:
        killed, left = kills(Path(made), given.count, random.Random(given.seed))
    print(f"{killed} of {given.count} killed in time; clean found {left} things, and nothing else was left", flush=True)


if __name__ == "__main__":
    main()
