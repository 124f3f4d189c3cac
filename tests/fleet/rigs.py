"""Devices on loopback: each an sshd of its own behind a proxy that can cut, a root folder, and a Python."""

from __future__ import annotations

import json
import shutil
import sys
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploytool import serde
from deploytool.device.environment import Environment
from deploytool.device.state import DeviceState
from deploytool.fleet.devices import FleetDevice
from deploytool.host.power import PowerState
from deploytool.transfer.addresses import Device
from deploytool.transfer.ssh import SshTarget
from tests.conftest import PYTHONPATH, ROOT
from tests.transfer import servers
from tests.transfer.servers import Proxy

ON_CPU = Environment("linux", "aarch64", onnxruntime="1.22.1")
ORIN = Environment("linux", "aarch64", "Orin", "8.7", "12.6", {"tensorrt": "10.3.0"}, "1.22.1")


@dataclass(frozen=True)
class Rig:
    """One device: how the fleet sees it, its root, and the proxy before its sshd."""

    device: FleetDevice
    root: Path
    proxy: Proxy

    def control(self, **words: Any) -> None:
        """Sets what the fake deploytool of the device does; see tests/fleet/fake_device.py."""
        path = self.root / "control.json"
        before = json.loads(path.read_text()) if path.exists() else {"state": serde.encode(state())}
        if "environment" in words:
            words["state"] = serde.encode(state(words.pop("environment")))
        path.write_text(json.dumps({**before, **words}))

    def commands(self) -> list[dict[str, Any]]:
        """What the fake deploytool of the device was told to do, but for the states that were asked."""
        path = self.root / "commands.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in map(json.loads, lines) if line["command"] != "status"]

    def current(self) -> str | None:
        """The digest of the current bundle."""
        path = self.root / "current"
        return str(json.loads(path.read_text())["current"]) if path.exists() else None

    def named(self, **changes: Any) -> Rig:
        """The same device with another name, target or label."""
        return replace(self, device=replace(self.device, **changes))


def state(environment: Environment = ON_CPU) -> DeviceState:
    return DeviceState("0.1.0", "3.10.12", environment, None, None, PowerState({}, {}))


def holder(path: Path) -> int:
    """The only process that has a file open."""
    (process,) = (process for process in Path("/proc").glob("[0-9]*") if str(path) in _open_files(process))
    return int(process.name)


def _open_files(process: Path) -> set[str]:
    """The files that a process has open; none if it has ended meanwhile."""
    with suppress(OSError):
        return {str(link.readlink()) for link in (process / "fd").iterdir()}
    return set()


@contextmanager
def rigs(folder: Path, count: int, stand_in: str = "") -> Iterator[list[Rig]]:
    """Runs devices; `stand_in` is the program that stands for `deploytool.device` there, by default the real one."""
    path = str(fake_package(folder / "fake", stand_in)) if stand_in else PYTHONPATH
    settings = f'PYTHONPATH="{path}" REAL="{ROOT}" OMP_NUM_THREADS=1'
    with _running(folder, count, f'export {settings}\nexec "{sys.executable}" "$@"') as made:
        yield made


@contextmanager
def bare_rigs(folder: Path, count: int, limits: str = "true") -> Iterator[list[Rig]]:
    """Runs devices with a Python without packages, in an empty environment; `limits` is a line of a shell.

    Their Python also looks for packages in `folder/own`.
    """
    venv.create(folder / "bare")
    settings = f'HOME="{folder}" PATH=/usr/bin:/bin PYTHONPATH="{folder}/own" OMP_NUM_THREADS=1'
    with _running(folder, count, f'{limits}\nexec env -i {settings} "{folder}/bare/bin/python" "$@"') as made:
        yield made


def fake_package(folder: Path, stand_in: str) -> Path:
    """A folder with a package `deploytool` whose `deploytool.device` is a program of this folder."""
    (folder / "deploytool/device").mkdir(parents=True)
    for package in ("deploytool", "deploytool/device"):
        (folder / package / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name(stand_in), folder / "deploytool/device/__main__.py")
    return folder


@contextmanager
def _running(folder: Path, count: int, start: str) -> Iterator[list[Rig]]:
    """Runs devices whose Python is started by these lines of a shell."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{start}\n")
    python.chmod(0o755)
    with ExitStack() as stack:
        made = []
        for number in range(count):
            home = folder / f"device{number}"
            (home / "root").mkdir(parents=True)
            running = stack.enter_context(servers.sshd(home))
            proxy = stack.enter_context(servers.proxy(running.port))
            target = SshTarget(proxy.port, None, running.config, str(python), 5)
            device = FleetDevice(f"device{number}", Device("device", str(home / "root")), target)
            rig = Rig(device, home / "root", proxy)
            rig.control()
            made.append(rig)
        yield made
