"""A service in several processes and threads, beside which bundles are installed all the while and no lock works.

`make reliability` runs it. Every answer is held against one that numpy computed by itself; at the end no bundle may
have been given up, no descriptor be open, and the memory be what it was after the first of several openings.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

import deploytool.device
from deploytool.bundle.manifest import read_manifest, write_manifest
from deploytool.device import install
from deploytool.host import owner
from tests.reliability.forks import forked

Array = npt.NDArray[np.float32]

_CLOSE = 1e-4
_OLD_S = 3.0  # after which a bundle that is no longer used may go: an hour, were there the time
_MOST_MIB = 4.0  # that the memory may grow from the first opening to the last
_COMING = 2  # threads of libraries that come and go
_KINDS = 2  # of each bundle, so that there are some to sweep


@dataclass(frozen=True)
class Known:
    """Inputs, and for each weights file (its SHA-256) the right answers."""

    inputs: Array
    answers: Mapping[str, Array]


@dataclass(frozen=True)
class Served:
    """What one process of the service did: calls, openings, and what grew from the first of these to the last."""

    calls: int
    openings: int
    grown_mib: float
    descriptors: int
    threads: int


def by_numpy(folder: Path, inputs: Array) -> Array:
    """The answers of the net in `commands.NET`, from the bytes of its weights file."""
    raw = (folder / "weights.safetensors").read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    named = {name: at for name, at in json.loads(raw[8:begin]).items() if name != "__metadata__"}
    weights = {
        name: np.frombuffer(raw[begin + at["data_offsets"][0] : begin + at["data_offsets"][1]], "<f4")
        .reshape(at["shape"])
        .astype(np.float64)
        for name, at in named.items()
    }
    kernel, padded = weights["0.weight"], np.pad(inputs.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    hidden = np.einsum("nchwij,ocij->nohw", windows, kernel) + weights["0.bias"][:, None, None]
    flat = np.maximum(hidden, 0).reshape(len(inputs), -1)
    return np.asarray(flat @ weights["3.weight"].T + weights["3.bias"], np.float32)


def contents(folders: Sequence[Path], above: Path) -> list[Path]:
    """Each bundle several times over, with other manifests and the same files."""
    made: list[Path] = []
    for folder in folders:
        manifest = read_manifest(folder)
        for kind in range(_KINDS):
            copy = Path(shutil.copytree(folder, above / f"content{len(made)}"))
            choices = {**manifest.provenance.choices, "kind": kind}
            write_manifest(
                copy,
                dataclasses.replace(manifest, provenance=dataclasses.replace(manifest.provenance, choices=choices)),
            )
            made.append(copy)
    return made


def installs(folders: Sequence[Path], root: Path, until: Path, seed: int) -> None:
    """Installs one or the other until there is a file of that name."""
    draw = random.Random(seed)
    owner.ABANDONED_S = _OLD_S
    done = 0
    while not until.exists():
        install.install(draw.choice(folders), root, lambda checked: None)
        done += 1
        time.sleep(draw.uniform(0, 0.05))
    print(f"installs {done}", flush=True)


def serves(root: Path, known: Known, calls: int, threads: int, openings: int) -> Served:
    """Opens the model several times and has all threads call it; raises AssertionError at a wrong answer."""
    states, done = list[tuple[float, int, int]](), 0
    for opening in range(openings):
        share = calls // openings if opening else calls - calls // openings * (openings - 1)
        with deploytool.device.open(root) as model:
            _called(model, known, share, threads, seed=opening)
        done += share
        states.append((_mib(), _descriptors(), _threads()))  # a library keeps what it opened first
    first, last = states[0], states[-1]
    return Served(done, openings, last[0] - first[0], last[1] - first[1], last[2] - first[2])


def _called(model: deploytool.device.Model, known: Known, calls: int, threads: int, seed: int) -> None:
    right, name = known.answers[model.manifest.provenance.weights], model.manifest.inputs[0].name
    wrong: list[str] = []

    def work(thread: int) -> None:
        draw = random.Random(1000 * seed + thread)
        try:
            for _ in range(calls // threads + (thread < calls % threads)):
                at = draw.randrange(len(right) - 2)
                to = at + draw.randint(1, 3)
                (got,) = model.run(**{name: known.inputs[at:to]}).values()
                if got.shape != right[at:to].shape or np.abs(got - right[at:to]).max() > _CLOSE:
                    wrong.append(f"case {at} to {to}")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")

    running = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    assert not wrong, f"{len(wrong)} wrong answers, such as {wrong[0]}"


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@contextmanager
def locks(*, work: bool) -> Iterator[None]:
    """Where they do not work, it is as on a network disk without a lock daemon."""
    usual = fcntl.flock
    if not work:
        fcntl.flock = lambda *_: None
    try:
        yield
    finally:
        fcntl.flock = usual


def campaign(folders: Sequence[Path], known: Known, above: Path, given: argparse.Namespace) -> list[str]:
    """What was wrong; what came of it is printed."""
    root, until, said = above / "root", above / "until", [above / f"said{at}" for at in range(given.forks + 2)]
    made, begun = contents(folders, above), time.monotonic()
    with locks(work=given.locks):
        install.install(made[0], root, lambda checked: None)
        installers = [forked(partial(installs, made, root, until, at), said[given.forks + at]) for at in range(2)]
        share = given.calls // given.forks

        def work() -> None:
            print(json.dumps(dataclasses.asdict(serves(root, known, share, given.threads, given.openings))), flush=True)

        services = [forked(work, said[at]) for at in range(given.forks)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in services]
        until.touch()
        codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in installers]
    told = [path.read_text() for path in said]
    wrong = [f"process {at} ended with {code}: {told[at][-1500:]}" for at, code in enumerate(codes) if code]
    wrong += _judged(
        [json.loads(line) for text in told[: given.forks] for line in text.splitlines() if line[:1] == "{"]
    )
    wrong += _left(root)
    for text in told:
        print(text.strip()[-300:])
    print(f"{share * given.forks} calls, {time.monotonic() - begun:.0f} s, {len(wrong)} wrong")
    return wrong


def _judged(served: Sequence[Mapping[str, float]]) -> list[str]:
    wrong = [f"memory grew by {one['grown_mib']:.1f} MiB" for one in served if one["grown_mib"] > _MOST_MIB]
    wrong += [f"{one['descriptors']} descriptors are open" for one in served if one["descriptors"]]
    return wrong + [f"{one['threads']} threads are left" for one in served if one["threads"] > _COMING]


def _left(root: Path) -> list[str]:
    found = install.read_pointer(root)
    assert found is not None
    wrong = [f"{digest} was given up: {why}" for digest, why in found.refused.items()]
    wrong += [f"a failed start: {path.read_text()}" for path in root.glob("starts/*/failed-*")]
    return wrong + [f"litter: {path.name}" for path in root.iterdir() if path.name[0] == "." and path.name != ".lock"]


def main() -> None:
    """Runs it; ends with 1 if anything was wrong."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--calls", type=int, default=100_000)
    asked.add_argument("--forks", type=int, default=4)
    asked.add_argument("--threads", type=int, default=8)
    asked.add_argument("--openings", type=int, default=8, help="of the model in each process")
    asked.add_argument("--locks", action="store_true", help="with locks that work")
    asked.add_argument("--bundle", type=Path, action="append", help="instead of two that are made")
    asked.add_argument("--answers", type=Path, help="a .npz file with `inputs`, and answers by the SHA-256 of weights")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        above = Path(scratch)
        if given.answers:
            with np.load(given.answers) as held:
                known = Known(held["inputs"], {name: held[name] for name in held.files if name != "inputs"})
            folders = given.bundle
        else:
            folders, known = _exported(above)
        wrong = campaign(folders, known, above, given)
    for line in wrong:
        print(f"WRONG {line}")
    sys.exit(bool(wrong))


def _exported(above: Path) -> tuple[Sequence[Path], Known]:
    """Two bundles, exported and packed by the command line, and what numpy makes of their weights."""
    from tests.reliability import faults

    at = faults.yard(above)
    faults.imported()
    made = faults.bundles(above, at)
    inputs = np.random.default_rng(0).standard_normal((64, 3, 16, 16)).astype(np.float32)
    rooms = [run / "load" for run in made.runs]
    digests = [hashlib.sha256((room / "weights.safetensors").read_bytes()).hexdigest() for room in rooms]
    answers = [by_numpy(room, inputs) for room in rooms]
    return made.folders, Known(inputs, dict(zip(digests, answers, strict=True)))


if __name__ == "__main__":
    main()
