"""Kills exports and runs them concurrently in one folder; a complete run must survive. `make reliability` runs it.

Every export is forked from a process that has imported torch, so hundreds of exports take minutes.
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
import onnx  # noqa: F401  # imported before forking, like torch
import onnxruntime
import torch

import deploytool
from deploytool.spec import Stage
from deploytool.stages.registry import STAGES, import_stage
from tests.reliability.forks import fork

NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 4))
"""
EXPECTED_STAGES = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.VALIDATE)
ALLOWED = {*EXPECTED_STAGES, "report.html", ".unfinished"}
DEADLINE_S = 300.0


def export(net: Path, out: Path, seed: int) -> None:
    """One export by the Python API."""
    deploytool.export(f"{net}:make", inputs=[(3, 16, 16)], to="onnx", quick=True, seed=seed, out=out).check()


def digests(out: Path) -> dict[str, str]:
    """The SHA-256 of every file of a run, independently of deploytool's code."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.relative_to(out).parts[0].startswith(".")
    }


def find_faults(net: Path, out: Path, seeds: Sequence[int]) -> list[str]:
    """The problems of a run, which must be complete and made with one of these seeds; empty if there are none."""
    present = {path.name for path in out.iterdir()}
    if missing := {*EXPECTED_STAGES, "report.html"} - present:
        return [f"missing: {sorted(missing)}"]
    problems = [f"unexpected: {sorted(present - ALLOWED)}"] if present - ALLOWED else []
    image = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    namespace: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(NET, namespace)
    matches = []
    for graph in ("export", "rewrite"):
        session = onnxruntime.InferenceSession(out / graph / "model.onnx", providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {session.get_inputs()[0].name: image})
        is_right = []
        for seed in seeds:
            torch.manual_seed(seed)
            with torch.no_grad():
                expected = namespace["make"]().eval()(torch.from_numpy(image)).numpy()
            is_right.append(np.abs(output - expected).max() < 1e-4)
        matches.append(is_right)
    if not any(all(graphs) for graphs in zip(*matches, strict=True)):
        problems.append("its graphs are not those of one seed")
    return problems


def kill_exports(folder: Path, count: int, draw: random.Random) -> Mapping[str, int]:
    """Kills `count` exports over a complete run, each at a random moment; raises AssertionError if a run is lost."""
    net, out, output = folder / "net.py", folder / "out", folder / "output"
    net.write_text(NET, encoding="utf-8")
    start = time.monotonic()
    assert os.waitpid(fork(partial(export, net, out, 0), output), 0)[1] == 0, output.read_text()
    start = time.monotonic()
    assert os.waitpid(fork(partial(export, net, out, 1), output), 0)[1] == 0, output.read_text()
    seconds, old, seed = time.monotonic() - start, digests(out), 1
    tally = {"killed": 0, "old run": 0, "new run": 0, "ended before": 0}
    for turn in range(count):
        new_seed = turn + 2
        child = fork(partial(export, net, out, new_seed), output)
        time.sleep(draw.uniform(0, 1.15 * seconds))
        os.kill(child, signal.SIGKILL)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        current = digests(out)
        assert not (problems := find_faults(net, out, (seed, new_seed))), f"turn {turn}: {problems}"
        tally["killed" if killed else "ended before"] += 1
        tally["old run" if current == old else "new run"] += 1
        if current != old:
            old, seed = current, new_seed
    assert os.waitpid(fork(partial(export, net, out, seed), output), 0)[1] == 0, output.read_text()
    assert digests(out) == old, "an export with the same seed changed the run"
    assert os.waitpid(fork(partial(export, net, out, count + 2), output), 0)[1] == 0, output.read_text()
    assert {path.name for path in folder.iterdir()} == {"net.py", "out", "output"}, "leftover files"
    assert not (problems := find_faults(net, out, (count + 2,))), problems
    assert "Traceback" not in output.read_text()
    return tally


def run_concurrently(folder: Path, together: int, rounds: int, *, locks: bool) -> float:
    """Runs `together` exports at once into one folder, `rounds` times; returns the seconds.

    In every other round the seeds differ. Without `locks`, flock does nothing, as on some network file systems.
    """
    net, output = folder / "net.py", folder / "output"
    net.write_text(NET, encoding="utf-8")
    original, start = fcntl.flock, time.monotonic()
    if not locks:
        fcntl.flock = lambda *_: None  # as on NFS without a lock daemon
    try:
        for turn in range(rounds):
            out = folder / f"out{turn}"
            seeds = [member if turn % 2 else 0 for member in range(together)]
            children = [fork(partial(export, net, out, seed), output) for seed in seeds]
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            assert codes == [0] * together, f"round {turn}: {codes}\n{output.read_text()[-3000:]}"
            assert not (problems := find_faults(net, out, seeds)), f"round {turn}: {problems}"
            leftovers = {path.name for path in folder.iterdir()} - {
                "net.py",
                "output",
                *(f"out{number}" for number in range(turn + 1)),
            }
            assert not leftovers, f"round {turn}: {leftovers}"
    finally:
        fcntl.flock = original
    assert "Traceback" not in output.read_text()
    return time.monotonic() - start


def main() -> None:
    """Runs both campaigns and prints their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for stage in STAGES:
        import_stage(stage)
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        if args.kills:
            (Path(scratch) / "kills").mkdir()
            print("kills:", kill_exports(Path(scratch) / "kills", args.kills, draw), flush=True)
        for locks in (True, False) if args.rounds else ():
            folder = Path(scratch) / f"concurrent-{locks}"
            folder.mkdir()
            seconds = run_concurrently(folder, args.together, args.rounds, locks=locks)
            mode = "locks" if locks else "no locks"
            print(
                f"{args.together} at once, {args.rounds} rounds, {mode}: one complete run each, {seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
