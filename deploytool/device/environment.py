"""Detects what of this machine matters to an engine, and tells whether an engine can run on it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from deploytool.bundle.manifest import Engine
from deploytool.doctor.inventory import OPENVINO, RUNTIMES
from deploytool.host import machine
from deploytool.targets import FLAVOURS, precision_problem

_ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Environment:
    """System, processor, first GPU, its compute capability, CUDA version of its driver, and versions of runtimes.

    `tensorrt` gives the versions by flavour, `features` those of an x86 processor that INT8 needs. What the machine
    lacks is empty.
    """

    system: str
    processor: str
    gpu: str = ""
    capability: str = ""
    cuda: str = ""
    tensorrt: Mapping[str, str] | None = None
    onnxruntime: str = ""
    openvino: str = ""
    features: tuple[str, ...] = ()

    def version(self, flavour: str) -> str:
        """The installed version of a TensorRT flavour, empty if it is not installed."""
        return (self.tensorrt or {}).get(flavour, "")


def detect() -> Environment:
    """The environment of this machine; imports no heavy library and calls the driver only for names and versions."""
    processor = platform.machine().lower()
    versions = {name: flavour.version for name, flavour in FLAVOURS.items()}
    gpus = machine.gpus()
    return Environment(
        system=platform.system().lower(),
        processor=_ALIASES.get(processor, processor),
        gpu=gpus[0].name if gpus else "",
        capability=gpus[0].capability if gpus else "",
        cuda=machine.cuda() if gpus else "",
        tensorrt={name: version for name, version in versions.items() if version},
        onnxruntime=next((version for name in RUNTIMES if (version := machine.version(name))), ""),
        openvino=machine.version(OPENVINO) or "",
        features=machine.int8_features(),
    )


def mismatch(engine: Engine, environment: Environment) -> str | None:
    """Why an engine cannot run on this machine; None if it may, as far as that is known without loading it.

    A plan is tied to its TensorRT version, platform and GPU, and NVIDIA offers no check of that before it is loaded.
    """
    flavour, installed = engine.flavour, environment.version(engine.flavour)
    if environment.system not in engine.systems or environment.processor not in engine.processors:
        return f"it is not for {environment.system} on {environment.processor}"
    if not environment.capability:
        return "no CUDA GPU answers here"
    if environment.capability not in engine.capabilities:
        capabilities = ", ".join(engine.capabilities)
        return f"it is for compute capability {capabilities}, and {environment.gpu} has {environment.capability}"
    if problem := precision_problem(environment.capability, engine.precision):
        return problem
    if engine.cuda and not _at_least(environment.cuda, engine.cuda):
        return f"it needs a driver for CUDA {engine.cuda}, and this one supports {environment.cuda or 'none'}"
    if not installed:
        return f"{flavour} is not installed"
    if installed != engine.version:
        return f"it was built by {flavour} {engine.version}, and {installed} is installed"
    return None


def _at_least(version: str, minimum: str) -> bool:
    try:
        return [int(part) for part in version.split(".")] >= [int(part) for part in minimum.split(".")]
    except ValueError:
        return False  # versions that cannot be compared are refused
