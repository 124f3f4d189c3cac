"""What this machine is to an engine, and whether an engine is meant for it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from deploytool.bundle.manifest import Engine
from deploytool.host import machine
from deploytool.targets import FLAVOURS

_ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Environment:
    """System, processor, the first GPU with its compute capability, what its driver serves, TensorRT by flavour.

    Whatever is not there is empty.
    """

    system: str
    processor: str
    gpu: str = ""
    capability: str = ""
    cuda: str = ""
    tensorrt: Mapping[str, str] | None = None

    def version(self, flavour: str) -> str:
        """The installed release of a TensorRT flavour."""
        return (self.tensorrt or {}).get(flavour, "")


def detect() -> Environment:
    """What this machine is; nothing heavy is imported, and no driver is trusted with our process beyond its name."""
    processor = platform.machine().lower()
    found = {name: flavour.version for name, flavour in FLAVOURS.items()}
    gpus = machine.gpus()
    return Environment(
        system=platform.system().lower(),
        processor=_ALIASES.get(processor, processor),
        gpu=gpus[0].name if gpus else "",
        capability=gpus[0].capability if gpus else "",
        cuda=machine.cuda() if gpus else "",
        tensorrt={name: version for name, version in found.items() if version},
    )


def mismatch(engine: Engine, found: Environment) -> str | None:
    """Why an engine is not for this machine; None if it is, as far as one can tell without running it.

    A plan is tied to its release, its platform and its GPU; NVIDIA offers no check of that before it is loaded.
    """
    if found.system not in engine.systems or found.processor not in engine.processors:
        return f"it is not for {found.system} on {found.processor}"
    if not found.capability:
        return "no CUDA GPU answers here"
    if found.capability not in engine.capabilities:
        return f"it is for compute capability {', '.join(engine.capabilities)}, and {found.gpu} has {found.capability}"
    if engine.cuda and not _at_least(found.cuda, engine.cuda):
        return f"it needs a driver for CUDA {engine.cuda}, and this one serves {found.cuda or 'none'}"
    if not found.version(engine.flavour):
        return f"{engine.flavour} is not installed"
    if found.version(engine.flavour) != engine.version:
        return f"it was built by {engine.flavour} {engine.version}, and {found.version(engine.flavour)} is installed"
    return None


def _at_least(version: str, floor: str) -> bool:
    try:
        return [int(part) for part in version.split(".")] >= [int(part) for part in floor.split(".")]
    except ValueError:
        return False  # what cannot be compared is not enough
