"""The commands that are set upon: how each is called for one content or another, and what a reader sees of it."""

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
from deploytool.device.probe import ProbeResult
from deploytool.device.worker import Trial
from deploytool.host import machine
from deploytool.results.report import Check, Parity, Tolerance
from deploytool.spec import Attempt
from deploytool.transfer import push as transfer_push
from tests.reliability import reading

NET = """
import torch
from torch import nn

def make(seed: int = 0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 4))
"""
SSH = '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n'  # a device that is this machine
CHUNK = 4096  # bytes of a blob at a time, so that small bundles go in several
_LIMIT = Tolerance(max_error=2e-3, cosine=1 - 1e-4, snr_db=40.0, top1=1.0, top5=1.0)
TRIAL = Trial(Check("FP64", Parity(1e-4, 1.0, 80.0, 1.0, 1.0, 0), _LIMIT, ()), 1.0, 1.1, 9, 1)
LAPTOP = Environment(
    "linux", "x86_64", "RTX 4070", "8.9", "13.0", {"tensorrt_rtx": machine.version("tensorrt-rtx") or ""}
)


@dataclass(frozen=True)
class Attacked:
    """A command in a folder of its own.

    `line` is its command line for a turn; `seen` what a reader finds there, of which `wanted` is what that turn is to
    bring; `prepare` is called in the child before the command, `reset` before a turn; `allowed` are the names that may
    lie in the folder once a command ended well; `cost` is how rarely it is set upon, for it takes long; `anew` is one
    that refuses a folder that is there.
    """

    name: str
    place: Path
    line: Callable[[int], list[str]]
    seen: Callable[[int], str]
    wanted: Callable[[int], str]
    allowed: frozenset[str]
    prepare: Callable[[], None] = lambda: None
    reset: Callable[[int], None] = lambda turn: None
    cost: int = 1
    anew: bool = False
    hidden: Callable[[], list[Path]] = field(default=list)  # other folders in which nothing may be left


@dataclass(frozen=True)
class Bundles:
    """Two bundles, and the runs that they are from, which differ by their weights."""

    runs: tuple[Path, ...]
    folders: tuple[Path, Path]

    def digest(self, turn: int) -> str:
        return reading.sha256((self.folders[turn % 2] / "manifest.json").read_bytes())

    def folder(self, turn: int) -> str:
        return str(self.folders[turn % 2])


def net(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(NET, encoding="utf-8")
    return folder / "net.py"


def export_line(file: Path, seed: int, out: Path, *more: str) -> list[str]:
    shape = ["--input", "3x16x16", "--arg", f"seed={seed}", "--quick", "--quiet"]
    return ["export", f"{file}:make", *shape, *more, "--out", str(out)]


def every(above: Path, made: Bundles, base: str | None) -> list[Attacked]:
    """All of them; `base` is the address of a registry, if there is one. Bundles that run nowhere will do for some."""
    found = [
        *(pull(above / "pull", made), pull_archive(above / "pull_archive", made), push(above / "push", made)),
        ship(above / "ship", made, "--no-install"),
    ]
    if made.runs:
        found += [export(above / "export"), pack(above / "pack", made), pack_out(above / "pack_out", made)]
        found += [install(above / "install", made), ship(above / "ship_install", made), build(above / "build", made)]
    if base:
        found.append(push_registry(above / "push_registry", made, base))
        found.append(pull_registry(above / "pull_registry", made, base))
    return found


def export(place: Path) -> Attacked:
    file, out = net(place), place / "out"

    def seen(turn: int) -> str:
        reading.rooms(out)
        return seed_of(out)

    return Attacked(
        *("export", place, lambda turn: export_line(file, turn % 2, out, "--to", "onnx"), seen),
        *(lambda turn: f"seed {turn % 2}", frozenset({"net.py", "out", "__pycache__"})),
        cost=3,
    )


def seed_of(out: Path) -> str:
    """Of which seed the graphs of a run are, by what they compute."""
    if not (out / "validate").exists():
        return ""
    import numpy as np
    import onnxruntime

    image = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    seeds = set()
    for graph in ("export", "rewrite"):
        session = onnxruntime.InferenceSession(out / graph / "model.onnx", providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {session.get_inputs()[0].name: image})
        seeds |= {seed for seed in (0, 1) if np.abs(got - answer(seed, image)).max() < 1e-4}
    assert len(seeds) == 1, f"{out} holds the graphs of {seeds}"
    return f"seed {min(seeds)}"


def answer(seed: int, image: Any) -> Any:
    import torch

    namespace: dict[str, Callable[[int], torch.nn.Module]] = {}
    exec(NET, namespace)
    with torch.no_grad():
        return namespace["make"](seed).eval()(torch.from_numpy(image)).numpy()


def pack(place: Path, made: Bundles) -> Attacked:
    run = Path(shutil.copytree(made.runs[0], place / "run"))

    def seen(turn: int) -> str:
        reading.rooms(run)
        folder = run / "pack/bundle"
        digest = reading.bundle(folder)
        return f"sequence {_sequence(folder)}" if digest else ""

    return Attacked(
        *("pack", place, lambda turn: ["pack", str(run), "--sequence", str(turn)], seen),
        *(lambda turn: f"sequence {turn}", frozenset({"run"})),
    )


def _sequence(folder: Path) -> int:
    return int(json.loads((folder / "manifest.json").read_bytes())["sequence"])


def pack_out(place: Path, made: Bundles) -> Attacked:
    run, out = Path(shutil.copytree(made.runs[0], place / "run")), place / "out"
    return Attacked(
        *("pack --out", place, lambda turn: ["pack", str(run), "--out", str(out)], lambda turn: reading.bundle(out)),
        *(lambda turn: made.digest(0), frozenset({"run", "out"})),
        anew=True,
        reset=lambda turn: shutil.rmtree(out, ignore_errors=True),
    )


def install(place: Path, made: Bundles) -> Attacked:
    place.mkdir(parents=True)
    root = place / "root"
    return Attacked(
        *("install", place, lambda turn: ["install", made.folder(turn), "--root", str(root)]),
        *(lambda turn: reading.root(root), made.digest, frozenset({"root"})),
        hidden=lambda: [root],
        cost=3,
    )


def _pulled(name: str, place: Path, made: Bundles, address: Callable[[int], str]) -> Attacked:
    place.mkdir(parents=True)
    out = place / "out"
    return Attacked(
        *(name, place, lambda turn: ["pull", address(turn), "--out", str(out)], lambda turn: reading.bundle(out)),
        *(made.digest, frozenset({"out"})),
        reset=lambda turn: shutil.rmtree(out, ignore_errors=True),
    )


def pull(place: Path, made: Bundles) -> Attacked:
    return _pulled("pull of a folder", place, made, made.folder)


def pull_archive(place: Path, made: Bundles) -> Attacked:
    return _pulled("pull of an archive", place, made, lambda turn: f"oci-archive:{made.folder(turn)}.tar")


def pull_registry(place: Path, made: Bundles, base: str) -> Attacked:
    host = base.removeprefix("http://")
    return _pulled("pull from a registry", place, made, lambda turn: f"oci://{host}/there:{turn % 2}")


def push(place: Path, made: Bundles) -> Attacked:
    place.mkdir(parents=True)
    path = place / "x.tar"
    return Attacked(
        *("push to an archive", place, lambda turn: ["push", made.folder(turn), f"oci-archive:{path}"]),
        *(lambda turn: reading.archive(path), made.digest, frozenset({"x.tar"})),
    )


def push_registry(place: Path, made: Bundles, base: str) -> Attacked:
    """Each name is pushed to twice: from nothing, and from one content to the other."""
    folders = [Path(shutil.copytree(folder, place / f"b{at}")) for at, folder in enumerate(made.folders)]
    host = base.removeprefix("http://")
    return Attacked(
        "push to a registry",
        place,
        lambda turn: ["push", str(folders[turn % 2]), f"oci://{host}/m{turn // 2}:1"],
        lambda turn: reading.registry(base, f"m{turn // 2}", "1"),
        *(made.digest, frozenset({"b0", "b1"})),
        prepare=_in_chunks,
    )


def _in_chunks() -> None:
    transfer_push.push.__kwdefaults__.update(chunk=CHUNK)  # type: ignore[union-attr]  # it has some


def ship(place: Path, made: Bundles, *more: str) -> Attacked:
    place.mkdir(parents=True)
    root = place / "root"

    def seen(turn: int) -> str:
        there = reading.received(root)
        return (made.digest(turn) if made.digest(turn) in there else "") if more else reading.root(root)

    def line(turn: int) -> list[str]:
        return ["ship", made.folder(turn), f"device:{root}", "--python", sys.executable, *more]

    return Attacked(
        *("ship" if more else "ship and install", place, line, seen, made.digest, frozenset({"root"})),
        prepare=lambda: _ssh(place.parent),
        reset=lambda turn: shutil.rmtree(root / "received", ignore_errors=True),
        hidden=lambda: [root, root / "received"],
        cost=1 if more else 4,
    )


def _ssh(above: Path) -> None:
    """An ssh that leads to this very machine."""
    program = above / "bin" / "ssh"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        program.write_text(SSH, encoding="utf-8")
        program.chmod(0o755)
    os.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"


def build(place: Path, made: Bundles) -> Attacked:
    """TensorRT-RTX builds without a GPU; that the engine runs is only said."""
    folder = Path(shutil.copytree(made.folders[0], place / "b"))
    beside = place / "b.built"
    return Attacked(
        *("build", place, lambda turn: ["build", str(folder)], lambda turn: reading.built(beside)),
        *(lambda turn: "proved", frozenset({"b", "b.built"})),
        prepare=_on_a_laptop,
        reset=lambda turn: shutil.rmtree(beside, ignore_errors=True),
        hidden=lambda: [beside],
        cost=3,
    )


def _on_a_laptop() -> None:
    def works(way: Candidate) -> ProbeResult:
        return ProbeResult(way.tier, Path(way.path).name, Attempt.MEASURED, trial=TRIAL)

    vars(device).update(here=lambda: LAPTOP, _prober=lambda checked, seconds: works)


def litter(one: Attacked, scratch: Path) -> list[str]:
    """What lies where only what was asked for should."""
    left = [path.name for path in one.place.iterdir() if path.name not in one.allowed]
    left += [
        path.name for place in one.hidden() if place.is_dir() for path in place.iterdir() if _unfinished(path.name)
    ]
    for path in scratch.iterdir():
        if path.is_file() and path.read_bytes() in (b"", b"blat"):
            path.unlink()  # with which `tempfile` of Python itself looks whether it can write there
        elif path.name == ".ses":  # ONNX Runtime's own
            path.unlink()
        else:
            left.append(path.name)
    return sorted(left)


def _unfinished(name: str) -> bool:
    return name[0] == "." and name != ".lock"


def named(found: list[Attacked], names: str) -> list[Attacked]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    return [one for one in found if not wanted or one.name in wanted]
