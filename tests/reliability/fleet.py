"""Campaign of `deploytool fleet`: eight devices on loopback, lines that are cut at random, canaries, dead devices.

`python -m tests.reliability.fleet --deployments 200`. Each device has an sshd of its own behind a proxy that cuts
connections at random moments and bytes in both directions. In each round one of four bundles goes to all devices; one
device may be dead, and the proof may fail on one. All the while, and after each round, the current bundle of every
device must be whole and proved. The devices have the real installs and rollbacks; with `--real`, all of deploytool.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploytool.device import install, verify
from deploytool.device.arguments import MinimumBackend
from deploytool.device.verify import VerifyOptions
from deploytool.errors import DeployError
from deploytool.fleet import run
from deploytool.fleet.devices import FleetDevice
from deploytool.fleet.result import DeviceResult, Outcome
from deploytool.fleet.run import Request
from deploytool.fleet.work import Proof
from tests.fleet import rigs
from tests.fleet.rigs import Rig
from tests.transfer import servers, small

BUNDLES, SIZE = 4, 200_000
FAILURE = {"problem": "too slow", "remedy": "none", "exit_code": 4}
LONGEST_CUT = 12_000  # bytes until the next cut


@dataclass
class Watcher:
    """Counts how often the current bundle of a device was looked at, and what was wrong with it."""

    rigs: Sequence[Rig]
    real: bool
    looked: int = 0
    problems: list[str] = field(default_factory=list)

    def look(self, rig: Rig) -> None:
        pointer = install.read_pointer(rig.root)
        if pointer is None:
            return
        self.looked += 1
        folder = install.bundle_path(rig.root, pointer.current)
        try:
            verify.check_integrity(folder, VerifyOptions(digest=pointer.current))
        except DeployError as error:
            if install.read_pointer(rig.root) == pointer:  # otherwise it was replaced meanwhile
                self.problems.append(f"{rig.device.name}: {error}")
        if not self.real and not (rig.root / "proved" / pointer.current).exists():
            self.problems.append(f"{rig.device.name}: {pointer.current[:12]} was never proved")


def cut_at_random(running: Sequence[Rig], chance: random.Random, ended: threading.Event) -> None:
    """Cuts connections after random numbers of bytes, and lets them through again."""
    while not ended.wait(chance.uniform(0.1, 1.0)):
        rig = chance.choice(running)
        way = chance.choice(("up", "down"))
        limit = chance.choice((None, chance.randrange(LONGEST_CUT)))
        setattr(rig.proxy, f"cut_{way}", None if limit is None else getattr(rig.proxy, way) + limit)
        if chance.random() < 0.5:
            rig.proxy.cut_up = rig.proxy.cut_down = None


def campaign(folder: Path, deployments: int, count: int, seed: int, packed: Path | None) -> bool:
    """Deploys until there were enough deployments; prints what became of them, and returns whether all was right."""
    chance, outcomes, wrong = random.Random(seed), Counter[str](), list[str]()
    real = packed is not None
    bundles = [make_bundle(folder / f"bundle{number}", number, packed) for number in range(BUNDLES)]
    with rigs.rigs(folder, count, "" if real else "light_device.py") as running:
        watcher, ended = Watcher(running, real), threading.Event()
        threads = [threading.Thread(target=cut_at_random, args=(running, chance, ended))]
        threads += [threading.Thread(target=watch, args=(watcher, ended))]
        for thread in threads:
            thread.start()
        start, rounds, cuts = time.monotonic(), 0, 0
        while outcomes.total() < deployments:
            bundle, before = chance.choice(bundles), {rig.device.name: rig.current() for rig in running}
            dead = chance.choice([*running, None, None]) if rounds % 3 == 0 else None
            slow = None if real else chance.choice([*running, *[None] * count])
            for rig in running:
                rig.control(fail={"bench": FAILURE} if rig is slow else {})
            proof = Proof(require=MinimumBackend.CPU, seconds=0.1)
            devices = [unplugged(rig.device) if rig is dead else rig.device for rig in running]
            first = chance.choice((0, 0, 1, 2))
            made = run.deploy(bundle, Request(devices=devices, proof=proof, first=first, patience_s=120))
            rounds += 1
            for rig, result in zip(running, made.devices, strict=True):
                outcomes[str(result.outcome)] += 1
                cuts += result.cuts
                watcher.look(rig)
                if reason := misjudged(rig, result, before[rig.device.name], rig is dead, rig is slow):
                    wrong.append(f"round {rounds}, {rig.device.name}, {result.outcome} ({result.reason}): {reason}")
            print(f"{rounds}: {dict(outcomes)}, {cuts} cuts, {time.monotonic() - start:.0f} s", flush=True)
        ended.set()
        for thread in threads:
            thread.join()
    print(f"{outcomes.total()} deployments in {rounds} rounds on {count} devices: {dict(outcomes)}; {cuts} cut lines;")
    print(f"current looked at {watcher.looked} times: {len(watcher.problems)} problems; {len(wrong)} wrong results")
    for line in (*watcher.problems[:20], *wrong[:20]):
        print(line)
    return not watcher.problems and not wrong


def watch(watcher: Watcher, ended: threading.Event) -> None:
    while not ended.wait(0.2):
        for rig in watcher.rigs:
            watcher.look(rig)


def misjudged(rig: Rig, result: DeviceResult, before: str | None, dead: bool, slow: bool) -> str | None:
    """What is wrong with a result, by what is on the device now."""
    current = rig.current()
    if result.outcome is Outcome.DONE:
        return None if current == result.digest and not slow else f"done, and the current bundle is {current}"
    if not result.reason:
        return "it has no reason"
    if result.outcome is Outcome.NOT_STARTED or dead:
        return None if current == before else "it was not to change"
    if result.rolled_back:
        return None if current == before else "it was not rolled back"
    if result.outcome is Outcome.FAILED and before not in (None, result.digest):
        return "it failed and was not rolled back"
    return None


def make_bundle(folder: Path, number: int, packed: Path | None) -> Path:
    """A bundle without a model, or a copy of a real one with another manifest."""
    if packed is None:
        return small.make_bundle(folder, number, SIZE)
    from deploytool.bundle.manifest import read_manifest, write_manifest

    shutil.copytree(packed, folder)
    manifest = read_manifest(folder)
    choices = {**manifest.provenance.choices, "copy": number}
    write_manifest(folder, replace(manifest, provenance=replace(manifest.provenance, choices=choices)))
    return folder


def unplugged(device: FleetDevice) -> FleetDevice:
    """The device at a port where nothing answers."""
    return replace(device, ssh=replace(device.ssh, port=servers.free_port()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deployments", type=int, default=200)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path, help="a real bundle: the devices have all of deploytool, and run it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        passed = campaign(Path(name), given.deployments, given.devices, given.seed, given.real)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
