"""Describes this device: its software and hardware, what is installed under a root, its clocks and its power mode."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploytool import releases
from deploytool.device import environment, install
from deploytool.device.environment import Environment
from deploytool.device.install import Pointer
from deploytool.host import machine, power
from deploytool.host.power import PowerState
from deploytool.releases import Release


@dataclass(frozen=True)
class DeviceState:
    """The versions of deploytool and Python, the environment, the release of JetPack, the pointer, clocks and power.

    `jetpack` is None on a machine that is no Jetson; `pointer` is None if nothing is installed or no root was given.
    """

    deploytool: str
    python: str
    environment: Environment
    jetpack: Release | None
    pointer: Pointer | None
    power: PowerState


def read(root: Path | None) -> DeviceState:
    """The state of this machine and of an install root; raises BadInput if the pointer there is damaged."""
    return DeviceState(
        deploytool=machine.version("deploytool") or "",
        python=platform.python_version(),
        environment=environment.detect(),
        jetpack=releases.installed(),
        pointer=install.read_pointer(root) if root else None,
        power=power.read(),
    )


def lines(state: DeviceState, root: Path | None) -> Iterator[str]:
    """The state for people, its verdict last."""
    here = state.environment
    gpu = f"{here.gpu} ({here.capability})" if here.capability else "no CUDA GPU answers here"
    jetpack = f", JetPack {state.jetpack.jetpack}" if state.jetpack else ""
    yield f"{here.system} on {here.processor}{jetpack}, {gpu}"
    known = {"deploytool": state.deploytool, "Python": state.python, **(here.tensorrt or {})}
    known |= {"onnxruntime": here.onnxruntime, "openvino": here.openvino}
    yield "  " + ", ".join(f"{name} {version}" for name, version in known.items() if version)
    yield from (f"  {name}: {reading}" for name, reading in state.power.readings.items())
    if root is None:
        return
    if state.pointer is None:
        yield f"nothing is installed in {root}"
        return
    yield f"{root}: current {state.pointer.current[:12]}, previous {(state.pointer.previous or 'none')[:12]}"
