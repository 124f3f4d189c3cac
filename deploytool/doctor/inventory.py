"""Inventory of this machine: packages from their metadata, libraries from their files, and tested providers."""

from __future__ import annotations

import importlib.util
import mmap
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from deploytool import releases
from deploytool.doctor import providers
from deploytool.doctor.providers import Provider
from deploytool.host import machine
from deploytool.host.machine import Gpu
from deploytool.releases import Release

RUNTIMES, OPENVINO = ("onnxruntime", "onnxruntime-gpu"), "openvino"
_RELEVANT = re.compile(
    r"(nvidia-|tensorrt|onnxruntime).*|openvino|torch|onnx|onnxscript|onnxsim|safetensors|numpy|pillow|cryptography|model-signing|pyopenssl"
)
_LINKED = {  # by provider library of ONNX Runtime: the dependency, and the pattern of its file name with the release
    "libonnxruntime_providers_cuda.so": ("cuda", rb"libcublas\.so\.(\d+)\0"),
    "libonnxruntime_providers_tensorrt.so": ("tensorrt", rb"libnvinfer\.so\.(\d+)\0"),
}
_SHARED_LIBRARY = re.compile(r".*\.(so(\.[0-9]+)*|dll)")


@dataclass(frozen=True)
class Installed:
    """An installed package: its version and, for TensorRT packages, the names of its shared libraries."""

    version: str
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """The data of a diagnosis; `cuda` is the highest CUDA release that the driver supports, empty without a driver.

    `jetpack` is the release of a Jetson device, None on other machines and for a release that is not known.

    `linked_releases` are the major releases of "cuda" and "tensorrt" that ONNX Runtime's provider libraries need;
    `loadable_tensorrt` are the major releases of TensorRT (not TensorRT-RTX) that the dynamic loader finds.
    """

    system: str
    processor: str
    cpu: str
    cuda: str
    gpus: tuple[Gpu, ...]
    installed: Mapping[str, Installed]
    linked_releases: Mapping[str, str]
    loadable_tensorrt: tuple[str, ...]
    providers: tuple[Provider, ...]
    jetpack: Release | None = None

    def version(self, name: str) -> str:
        """The version of a package; empty if it is not installed."""
        return self.installed[name].version if name in self.installed else ""


def collect() -> Inventory:
    """The inventory of this machine; libraries and providers are tested in child processes."""
    spec = importlib.util.find_spec("onnxruntime")
    folder = Path(spec.origin).parent / "capi" if spec and spec.origin else None
    return Inventory(
        system=platform.system().lower(),
        processor=platform.machine().lower(),
        cpu=machine.cpu(),
        cuda=machine.cuda(),
        gpus=machine.gpus(),
        installed=installed(),
        linked_releases=linked_releases(folder) if folder else {},
        loadable_tensorrt=providers.loadable_tensorrt(),
        providers=providers.probe_providers() if spec else (),
        jetpack=releases.installed(),
    )


def installed(path: Sequence[str] | None = None) -> dict[str, Installed]:
    """The relevant packages by normalised name, from `path` or Python's module search path."""
    packages: dict[str, Installed] = {}
    for distribution in metadata.distributions(path=list(sys.path if path is None else path)):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if _RELEVANT.fullmatch(name) and name not in packages:
            # only TensorRT's file lists are read: other packages list thousands of files
            files = (distribution.files or ()) if name.startswith("tensorrt") else ()
            libraries = sorted({file.name for file in files if _SHARED_LIBRARY.fullmatch(file.name)})
            packages[name] = Installed(distribution.version, tuple(libraries))
    return dict(sorted(packages.items()))


def linked_releases(folder: Path) -> dict[str, str]:
    """The major releases that the provider libraries in ONNX Runtime's folder are linked to, without loading them."""
    releases = {}
    for name, (dependency, pattern) in _LINKED.items():
        path = folder / name
        if not path.is_file() or not path.stat().st_size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if match := re.search(pattern, content):
                releases[dependency] = match[1].decode()
    return releases
