"""Runs a service in several processes and threads while bundles are installed concurrently, without working locks.

`make reliability` runs it. Every output is compared with one computed by NumPy. At the end no bundle may have been
rejected, no file descriptor may be open, and the memory may not exceed that after the first of several openings.
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
from tests.reliability.forks import fork

Array = npt.NDArray[np.float32]

_MAX_ERROR = 1e-4
_ABANDONED_S = 3.0  # seconds after which an unused bundle may be deleted (an hour in production)
_MAX_GROWTH_MIB = 4.0  # by which the memory may grow from the first opening to the last
_TRANSIENT_THREADS = 2  # threads of libraries that start and end by themselves
_COPIES = 2  # of each bundle, so that old ones have to be deleted


@dataclass(frozen=True)
class ExpectedOutputs:
    """Inputs, and the expected outputs for each weights file, by its SHA-256."""

    inputs: Array
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class ProcessResult:
    """The calls and openings of one process, and the growth of its resources from the first opening to the last."""

    calls: int
    openings: int
    grown_mib: float
    descriptors: int
    threads: int


def numpy_outputs(folder: Path, inputs: Array) -> Array:
    """The outputs of the network `commands.NET` by NumPy, from the bytes of its weights file."""
    raw = (folder / "weights.safetensors").read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    entries = {name: entry for name, entry in json.loads(raw[8:begin]).items() if name != "__metadata__"}
    weights = {
        name: np.frombuffer(raw[begin + entry["data_offsets"][0] : begin + entry["data_offsets"][1]], "<f4")
        .reshape(entry["shape"])
        .astype(np.float64)
        for name, entry in entries.items()
    }
    kernel, padded = weights["0.weight"], np.pad(inputs.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    hidden = np.einsum("nchwij,ocij->nohw", windows, kernel) + weights["0.bias"][:, None, None]
    flat = np.maximum(hidden, 0).reshape(len(inputs), -1)
    return np.asarray(flat @ weights["3.weight"].T + weights["3.bias"], np.float32)


def copy_bundles(folders: Sequence[Path], above: Path) -> list[Path]:
    """Several copies of each bundle, with the same files and different manifests."""
    copies: list[Path] = []
    for folder in folders:
        manifest = read_manifest(folder)
        for number in range(_COPIES):
            copy = Path(shutil.copytree(folder, above / f"content{len(copies)}"))
            choices = {**manifest.provenance.choices, "kind": number}
            write_manifest(
                copy,
                dataclasses.replace(manifest, provenance=dataclasses.replace(manifest.provenance, choices=choices)),
            )
            copies.append(copy)
    return copies


def install_repeatedly(folders: Sequence[Path], root: Path, stop_file: Path, seed: int) -> None:
    """Installs random bundles until the stop file exists."""
    draw = random.Random(seed)
    owner.ABANDONED_S = _ABANDONED_S
    count = 0
    while not stop_file.exists():
        install.install(draw.choice(folders), root, lambda checked: None)
        count += 1
        time.sleep(draw.uniform(0, 0.05))
    print(f"installs {count}", flush=True)


def serve(root: Path, known: ExpectedOutputs, calls: int, threads: int, openings: int) -> ProcessResult:
    """Opens the model several times and calls it in all threads; raises AssertionError for a wrong output."""
    states, total = list[tuple[float, int, int]](), 0
    for opening in range(openings):
        share = calls // openings if opening else calls - calls // openings * (openings - 1)
        with deploytool.device.open(root) as model:
            _call_model(model, known, share, threads, seed=opening)
        total += share
        states.append((_mib(), _descriptors(), _threads()))  # libraries keep the files and threads of their first use
    first, last = states[0], states[-1]
    return ProcessResult(total, openings, last[0] - first[0], last[1] - first[1], last[2] - first[2])


def _call_model(model: deploytool.device.Model, known: ExpectedOutputs, calls: int, threads: int, seed: int) -> None:
    expected, name = known.outputs[model.manifest.provenance.weights], model.manifest.inputs[0].name
    errors: list[str] = []

    def work(thread: int) -> None:
        draw = random.Random(1000 * seed + thread)
        try:
            for _ in range(calls // threads + (thread < calls % threads)):
                first = draw.randrange(len(expected) - 2)
                cases = slice(first, first + draw.randint(1, 3))
                (output,) = model.run(**{name: known.inputs[cases]}).values()
                if output.shape != expected[cases].shape or np.abs(output - expected[cases]).max() > _MAX_ERROR:
                    errors.append(f"case {cases.start} to {cases.stop}")
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors, f"{len(errors)} errors, such as {errors[0]}"


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@contextmanager
def file_locks(*, work: bool) -> Iterator[None]:
    """Within the context, `flock` does nothing unless `work`, as on a network file system without a lock daemon."""
    original = fcntl.flock
    if not work:
        fcntl.flock = lambda *_: None
    try:
        yield
    finally:
        fcntl.flock = original


def campaign(folders: Sequence[Path], known: ExpectedOutputs, above: Path, args: argparse.Namespace) -> list[str]:
    """Runs the campaign and prints its results; returns the problems."""
    root, stop_file = above / "root", above / "stop"
    outputs = [above / f"output{number}" for number in range(args.forks + 2)]
    bundles, start = copy_bundles(folders, above), time.monotonic()
    with file_locks(work=args.locks):
        install.install(bundles[0], root, lambda checked: None)
        installers = [
            fork(partial(install_repeatedly, bundles, root, stop_file, number), outputs[args.forks + number])
            for number in range(2)
        ]
        share = args.calls // args.forks

        def work() -> None:
            print(json.dumps(dataclasses.asdict(serve(root, known, share, args.threads, args.openings))), flush=True)

        services = [fork(work, outputs[number]) for number in range(args.forks)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in services]
        stop_file.touch()
        codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in installers]
    logs = [path.read_text() for path in outputs]
    problems = [
        f"process {number} ended with {code}: {logs[number][-1500:]}" for number, code in enumerate(codes) if code
    ]
    problems += _check_growth(
        [json.loads(line) for text in logs[: args.forks] for line in text.splitlines() if line[:1] == "{"]
    )
    problems += _check_root(root)
    for text in logs:
        print(text.strip()[-300:])
    print(f"{share * args.forks} calls, {time.monotonic() - start:.0f} s, {len(problems)} problems")
    return problems


def _check_growth(results: Sequence[Mapping[str, float]]) -> list[str]:
    problems = [
        f"memory grew by {result['grown_mib']:.1f} MiB" for result in results if result["grown_mib"] > _MAX_GROWTH_MIB
    ]
    problems += [f"{result['descriptors']} descriptors are open" for result in results if result["descriptors"]]
    threads = [int(result["threads"]) for result in results if result["threads"] > _TRANSIENT_THREADS]
    return problems + [f"{count} threads are left" for count in threads]


def _check_root(root: Path) -> list[str]:
    pointer = install.read_pointer(root)
    assert pointer is not None
    problems = [f"{digest} was rejected: {reason}" for digest, reason in pointer.refused.items()]
    problems += [f"a failed start: {path.read_text()}" for path in root.glob("starts/*/failed-*")]
    return problems + [
        f"leftover file: {path.name}" for path in root.iterdir() if path.name[0] == "." and path.name != ".lock"
    ]


def main() -> None:
    """Runs the campaign; exits with 1 if there were problems."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--forks", type=int, default=4)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--openings", type=int, default=8, help="openings of the model in each process")
    parser.add_argument("--locks", action="store_true", help="use working locks")
    parser.add_argument("--bundle", type=Path, action="append", help="bundles to use instead of exported ones")
    parser.add_argument("--answers", type=Path, help="a .npz file with `inputs`, and outputs by the SHA-256 of weights")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        above = Path(scratch)
        if args.answers:
            with np.load(args.answers) as file:
                known = ExpectedOutputs(file["inputs"], {name: file[name] for name in file.files if name != "inputs"})
            folders = args.bundle
        else:
            folders, known = _export_bundles(above)
        problems = campaign(folders, known, above, args)
    for line in problems:
        print(f"WRONG {line}")
    sys.exit(bool(problems))


def _export_bundles(above: Path) -> tuple[Sequence[Path], ExpectedOutputs]:
    """Two bundles, exported and packed by the command line, and their outputs by NumPy."""
    from tests.reliability import faults

    workspace = faults.make_workspace(above)
    faults.import_modules()
    bundles = faults.make_bundles(above, workspace)
    inputs = np.random.default_rng(0).standard_normal((64, 3, 16, 16)).astype(np.float32)
    weights_folders = [run / "load" for run in bundles.runs]
    digests = [hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest() for folder in weights_folders]
    outputs = [numpy_outputs(folder, inputs) for folder in weights_folders]
    return bundles.folders, ExpectedOutputs(inputs, dict(zip(digests, outputs, strict=True)))


if __name__ == "__main__":
    main()
