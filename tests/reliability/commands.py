"""Defines the commands under test: their command line for each turn, and the state a reader must find afterwards."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploytool.device import commands as device
from deploytool.device.candidates import Candidate
from deploytool.device.environment import Environment
from deploytool.device.probe import Attempt, ProbeResult
from deploytool.device.worker import Trial
from deploytool.host import machine
from deploytool.results.report import Check, Parity, Tolerance
from deploytool.transfer import push as transfer_push
from tests.reliability import reading

NET = """
import torch
from torch import nn

def make(seed: int = 0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 4))
"""
SSH = '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n'  # runs the command on this machine
CHUNK = 4096  # bytes of an upload chunk, so that even small bundles take several
_LIMIT = Tolerance(max_error=2e-3, cosine=1 - 1e-4, snr_db=40.0, top1=1.0, top5=1.0)
TRIAL = Trial(Check("FP64", Parity(1e-4, 1.0, 80.0, 1.0, 1.0, 0), _LIMIT, ()), 1.0, 1.1, 9, 1)
LAPTOP = Environment(
    "linux", "x86_64", "RTX 4070", "8.9", "13.0", {"tensorrt_rtx": machine.version("tensorrt-rtx") or ""}
)


@dataclass(frozen=True)
class CommandCase:
    """A command in its own folder.

    `line` is its command line for a turn; `seen` reads the state of its output, which must be `wanted` after that turn.
    `prepare` is called in the child before the command, `reset` before a turn. `allowed` are the names that may be in
    the folder after success. A higher `cost` means fewer attacks. With `needs_reset`, the command refuses an existing
    output.
    """

    name: str
    folder: Path
    line: Callable[[int], list[str]]
    seen: Callable[[int], str]
    wanted: Callable[[int], str]
    allowed: frozenset[str]
    prepare: Callable[[], None] = lambda: None
    reset: Callable[[int], None] = lambda turn: None
    cost: int = 1
    needs_reset: bool = False
    hidden: Callable[[], list[Path]] = field(default=list)  # other folders without leftover files


@dataclass(frozen=True)
class Bundles:
    """Two bundles that differ in their weights, and the runs they were packed from."""

    runs: tuple[Path, ...]
    folders: tuple[Path, Path]

    def digest(self, turn: int) -> str:
        return reading.sha256((self.folders[turn % 2] / "manifest.json").read_bytes())

    def folder(self, turn: int) -> str:
        return str(self.folders[turn % 2])


def write_net(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(NET, encoding="utf-8")
    return folder / "net.py"


def export_arguments(file: Path, seed: int, out: Path, *options: str) -> list[str]:
    shape = ["--input", "3x16x16", "--arg", f"seed={seed}", "--quick", "--quiet"]
    return ["export", f"{file}:make", *shape, *options, "--out", str(out)]


def all_commands(above: Path, bundles: Bundles, base: str | None) -> list[CommandCase]:
    """All commands; `base` is the address of a registry, if there is one. Bundles without runs allow some only."""
    cases = [
        *(pull(above / "pull", bundles), pull_archive(above / "pull_archive", bundles), push(above / "push", bundles)),
        ship(above / "ship", bundles, "--no-install"),
    ]
    if bundles.runs:
        cases += [export(above / "export"), pack(above / "pack", bundles), pack_out(above / "pack_out", bundles)]
        cases += [
            install(above / "install", bundles),
            ship(above / "ship_install", bundles),
            build(above / "build", bundles),
        ]
    if base:
        cases.append(push_registry(above / "push_registry", bundles, base))
        cases.append(pull_registry(above / "pull_registry", bundles, base))
    return cases


def export(folder: Path) -> CommandCase:
    file, out = write_net(folder), folder / "out"

    def seen(turn: int) -> str:
        reading.stages(out)
        return seed_of_run(out)

    return CommandCase(
        *("export", folder, lambda turn: export_arguments(file, turn % 2, out, "--to", "onnx"), seen),
        *(lambda turn: f"seed {turn % 2}", frozenset({"net.py", "out", "__pycache__"})),
        cost=3,
    )


def seed_of_run(out: Path) -> str:
    """The seed of a run's graphs, by their outputs."""
    if not (out / "validate").exists():
        return ""
    import numpy as np
    import onnxruntime

    image = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    seeds = set()
    for graph in ("export", "rewrite"):
        session = onnxruntime.InferenceSession(out / graph / "model.onnx", providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {session.get_inputs()[0].name: image})
        seeds |= {seed for seed in (0, 1) if np.abs(output - torch_output(seed, image)).max() < 1e-4}
    assert len(seeds) == 1, f"{out} holds the graphs of {seeds}"
    return f"seed {min(seeds)}"


def torch_output(seed: int, image: Any) -> Any:
    import torch

    namespace: dict[str, Callable[[int], torch.nn.Module]] = {}
    exec(NET, namespace)
    with torch.no_grad():
        return namespace["make"](seed).eval()(torch.from_numpy(image)).numpy()


def pack(folder: Path, bundles: Bundles) -> CommandCase:
    run = Path(shutil.copytree(bundles.runs[0], folder / "run"))

    def seen(turn: int) -> str:
        reading.stages(run)
        bundle = run / "pack/bundle"
        digest = reading.bundle(bundle)
        return f"sequence {_sequence(bundle)}" if digest else ""

    return CommandCase(
        *("pack", folder, lambda turn: ["pack", str(run), "--sequence", str(turn)], seen),
        *(lambda turn: f"sequence {turn}", frozenset({"run"})),
    )


def _sequence(folder: Path) -> int:
    return int(json.loads((folder / "manifest.json").read_bytes())["sequence"])


def pack_out(folder: Path, bundles: Bundles) -> CommandCase:
    run, out = Path(shutil.copytree(bundles.runs[0], folder / "run")), folder / "out"
    return CommandCase(
        *("pack --out", folder, lambda turn: ["pack", str(run), "--out", str(out)], lambda turn: reading.bundle(out)),
        *(lambda turn: bundles.digest(0), frozenset({"run", "out"})),
        needs_reset=True,
        reset=lambda turn: shutil.rmtree(out, ignore_errors=True),
    )


def install(folder: Path, bundles: Bundles) -> CommandCase:
    folder.mkdir(parents=True)
    root = folder / "root"
    return CommandCase(
        *("install", folder, lambda turn: ["install", bundles.folder(turn), "--root", str(root)]),
        *(lambda turn: reading.root(root), bundles.digest, frozenset({"root"})),
        hidden=lambda: [root],
        cost=3,
    )


def _pull(name: str, folder: Path, bundles: Bundles, address: Callable[[int], str]) -> CommandCase:
    folder.mkdir(parents=True)
    out = folder / "out"
    return CommandCase(
        *(name, folder, lambda turn: ["pull", address(turn), "--out", str(out)], lambda turn: reading.bundle(out)),
        *(bundles.digest, frozenset({"out"})),
        reset=lambda turn: shutil.rmtree(out, ignore_errors=True),
    )


def pull(folder: Path, bundles: Bundles) -> CommandCase:
    return _pull("pull of a folder", folder, bundles, bundles.folder)


def pull_archive(folder: Path, bundles: Bundles) -> CommandCase:
    return _pull("pull of an archive", folder, bundles, lambda turn: f"oci-archive:{bundles.folder(turn)}.tar")


def pull_registry(folder: Path, bundles: Bundles, base: str) -> CommandCase:
    host = base.removeprefix("http://")
    return _pull("pull from a registry", folder, bundles, lambda turn: f"oci://{host}/there:{turn % 2}")


def push(folder: Path, bundles: Bundles) -> CommandCase:
    folder.mkdir(parents=True)
    path = folder / "x.tar"
    return CommandCase(
        *("push to an archive", folder, lambda turn: ["push", bundles.folder(turn), f"oci-archive:{path}"]),
        *(lambda turn: reading.archive(path), bundles.digest, frozenset({"x.tar"})),
    )


def push_registry(folder: Path, bundles: Bundles, base: str) -> CommandCase:
    """Pushes to each name twice: first a new tag, then a replacement by the other bundle."""
    folders = [Path(shutil.copytree(source, folder / f"b{number}")) for number, source in enumerate(bundles.folders)]
    host = base.removeprefix("http://")
    return CommandCase(
        "push to a registry",
        folder,
        lambda turn: ["push", str(folders[turn % 2]), f"oci://{host}/m{turn // 2}:1"],
        lambda turn: reading.registry(base, f"m{turn // 2}", "1"),
        *(bundles.digest, frozenset({"b0", "b1"})),
        prepare=_use_small_chunks,
    )


def _use_small_chunks() -> None:
    transfer_push.push.__kwdefaults__.update(chunk=CHUNK)  # type: ignore[union-attr]  # it has some


def ship(folder: Path, bundles: Bundles, *options: str) -> CommandCase:
    folder.mkdir(parents=True)
    root = folder / "root"

    def seen(turn: int) -> str:
        digests = reading.received(root)
        return (bundles.digest(turn) if bundles.digest(turn) in digests else "") if options else reading.root(root)

    def line(turn: int) -> list[str]:
        return ["ship", bundles.folder(turn), f"device:{root}", "--python", sys.executable, *options]

    return CommandCase(
        *("ship" if options else "ship and install", folder, line, seen, bundles.digest, frozenset({"root"})),
        prepare=lambda: _install_ssh(folder.parent),
        reset=lambda turn: shutil.rmtree(root / "received", ignore_errors=True),
        hidden=lambda: [root, root / "received"],
        cost=1 if options else 4,
    )


def _install_ssh(above: Path) -> None:
    """Puts an `ssh` first in PATH that runs commands on this machine."""
    program = above / "bin" / "ssh"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        program.write_text(SSH, encoding="utf-8")
        program.chmod(0o755)
    os.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"


def build(folder: Path, bundles: Bundles) -> CommandCase:
    """Builds with TensorRT-RTX, which needs no GPU; the trial of the engine is simulated."""
    bundle = Path(shutil.copytree(bundles.folders[0], folder / "b"))
    built = folder / "b.built"
    return CommandCase(
        *("build", folder, lambda turn: ["build", str(bundle)], lambda turn: reading.built(built)),
        *(lambda turn: "proved", frozenset({"b", "b.built"})),
        prepare=_simulate_laptop,
        reset=lambda turn: shutil.rmtree(built, ignore_errors=True),
        hidden=lambda: [built],
        cost=3,
    )


def _simulate_laptop() -> None:
    def passes(way: Candidate) -> ProbeResult:
        return ProbeResult(way.tier, Path(way.path).name, Attempt.MEASURED, trial=TRIAL)

    vars(device).update(detect=lambda: LAPTOP, _prober=lambda checked, seconds: passes)


def litter(command: CommandCase, scratch: Path) -> list[str]:
    """The names of leftover files in the command's folders and the folder for temporary files."""
    leftovers = [path.name for path in command.folder.iterdir() if path.name not in command.allowed]
    leftovers += [
        path.name
        for folder in command.hidden()
        if folder.is_dir()
        for path in folder.iterdir()
        if _unfinished(path.name)
    ]
    for path in scratch.iterdir():
        if path.is_file() and path.read_bytes() in (b"", b"blat"):
            path.unlink()  # written by Python's `tempfile` to test the folder
        elif path.name == ".ses":  # written by ONNX Runtime
            path.unlink()
        else:
            leftovers.append(path.name)
    return sorted(leftovers)


def _unfinished(name: str) -> bool:
    return name[0] == "." and name != ".lock"


def select(cases: list[CommandCase], names: str) -> list[CommandCase]:
    selected = [name.strip() for name in names.split(",") if name.strip()]
    return [case for case in cases if not selected or case.name in selected]
