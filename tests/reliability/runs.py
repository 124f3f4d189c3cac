"""Kills exports and sets them on one folder together: a good run must outlive all of it. `make reliability` runs it.

Every export is a fork of one process that has torch imported, so that hundreds take minutes.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx  # noqa: F401  # imported before the forks, as torch is
import onnxruntime
import torch

import deploytool
from deploytool.spec import Stage
from deploytool.stages import STAGES, import_stage
from tests.reliability.forks import forked

NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 4))
"""
STAGES_OF = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.VALIDATE)
ALLOWED = {*STAGES_OF, "report.html", ".unfinished"}
DEADLINE_S = 300.0


def export(net: Path, out: Path, seed: int) -> None:
    """One export, as a user of the API writes it."""
    deploytool.export(f"{net}:make", inputs=[(3, 16, 16)], to="onnx", quick=True, seed=seed, out=out).check()


def digests(out: Path) -> dict[str, str]:
    """What the run holds, by code that shares nothing with the product."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.relative_to(out).parts[0].startswith(".")
    }


def faults_of(net: Path, out: Path, seeds: Sequence[int]) -> list[str]:
    """What is wrong with a run that should be whole and of one of these seeds: nothing, if all is well."""
    there = {path.name for path in out.iterdir()}
    if missing := {*STAGES_OF, "report.html"} - there:
        return [f"it lacks {sorted(missing)}"]
    found = [f"it holds {sorted(there - ALLOWED)}"] if there - ALLOWED else []
    image = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    namespace: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(NET, namespace)
    errors = []
    for graph in ("export", "rewrite"):
        session = onnxruntime.InferenceSession(out / graph / "model.onnx", providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {session.get_inputs()[0].name: image})
        right = []
        for seed in seeds:
            torch.manual_seed(seed)
            with torch.no_grad():
                want = namespace["make"]().eval()(torch.from_numpy(image)).numpy()
            right.append(np.abs(got - want).max() < 1e-4)
        errors.append(right)
    if not any(all(each) for each in zip(*errors, strict=True)):
        found.append("its graphs are not those of one seed")
    return found


def kills(folder: Path, count: int, draw: random.Random) -> Mapping[str, int]:
    """Kills so many exports over a good run, each at a random moment; raises AssertionError where a run is lost."""
    net, out, said = folder / "net.py", folder / "out", folder / "said"
    net.write_text(NET, encoding="utf-8")
    begun = time.monotonic()
    assert os.waitpid(forked(partial(export, net, out, 0), said), 0)[1] == 0, said.read_text()
    begun = time.monotonic()
    assert os.waitpid(forked(partial(export, net, out, 1), said), 0)[1] == 0, said.read_text()
    length, old, seed = time.monotonic() - begun, digests(out), 1
    tally = {"killed": 0, "old run": 0, "new run": 0, "done before": 0}
    for turn in range(count):
        wanted = turn + 2
        child = forked(partial(export, net, out, wanted), said)
        time.sleep(draw.uniform(0, 1.15 * length))
        os.kill(child, signal.SIGKILL)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        now = digests(out)
        assert not (found := faults_of(net, out, (seed, wanted))), f"turn {turn}: {found}"
        tally["killed" if killed else "done before"] += 1
        tally["old run" if now == old else "new run"] += 1
        if now != old:
            old, seed = now, wanted
    assert os.waitpid(forked(partial(export, net, out, seed), said), 0)[1] == 0, said.read_text()
    assert digests(out) == old, "the last run is not the one that was there"
    assert os.waitpid(forked(partial(export, net, out, count + 2), said), 0)[1] == 0, said.read_text()
    assert {path.name for path in folder.iterdir()} == {"net.py", "out", "said"}, "there is litter"
    assert not (found := faults_of(net, out, (count + 2,))), found
    assert "Traceback" not in said.read_text()
    return tally


def crowds(folder: Path, together: int, rounds: int, *, locks: bool) -> float:
    """So many exports at once into one folder, again and again; gives the seconds.

    In every other round the seeds differ. Without `locks`, flock does nothing, as on some network disks.
    """
    net, said = folder / "net.py", folder / "said"
    net.write_text(NET, encoding="utf-8")
    usual, begun = fcntl.flock, time.monotonic()
    if not locks:
        fcntl.flock = lambda *_: None  # what NFS without a lock daemon does
    try:
        for turn in range(rounds):
            out = folder / f"out{turn}"
            seeds = [member if turn % 2 else 0 for member in range(together)]
            children = [forked(partial(export, net, out, seed), said) for seed in seeds]
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            assert codes == [0] * together, f"round {turn}: {codes}\n{said.read_text()[-3000:]}"
            assert not (found := faults_of(net, out, seeds)), f"round {turn}: {found}"
            litter = {path.name for path in folder.iterdir()} - {
                "net.py",
                "said",
                *(f"out{at}" for at in range(turn + 1)),
            }
            assert not litter, f"round {turn}: {litter}"
    finally:
        fcntl.flock = usual
    assert "Traceback" not in said.read_text()
    return time.monotonic() - begun


def main() -> None:
    """Runs both campaigns and prints what came of them."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--kills", type=int, default=200)
    asked.add_argument("--together", type=int, default=8)
    asked.add_argument("--rounds", type=int, default=20)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    torch.set_num_threads(1)
    for verb in STAGES:
        import_stage(verb)
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        if given.kills:
            (Path(scratch) / "kills").mkdir()
            print("kills:", kills(Path(scratch) / "kills", given.kills, draw), flush=True)
        for locks in (True, False) if given.rounds else ():
            folder = Path(scratch) / f"crowd-{locks}"
            folder.mkdir()
            took = crowds(folder, given.together, given.rounds, locks=locks)
            what = "locks" if locks else "no locks"
            print(
                f"{given.together} at once, {given.rounds} rounds, {what}: one whole run each, {took:.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
