"""What is on this machine: distributions by their metadata, libraries by their files, and providers by trying them."""

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

from deploytool.doctor import providers
from deploytool.doctor.providers import Provider
from deploytool.host import machine
from deploytool.host.machine import Gpu

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_OURS = re.compile(
    r"(nvidia-|tensorrt|onnxruntime).*|torch|onnx|onnxscript|onnxsim|safetensors|numpy|pillow|cryptography|model-signing|pyopenssl"
)
_ASKED = {  # the library of an ONNX Runtime provider: whose releases it is tied to, by the name it asks for
    "libonnxruntime_providers_cuda.so": ("cuda", rb"libcublas\.so\.(\d+)\0"),
    "libonnxruntime_providers_tensorrt.so": ("tensorrt", rb"libnvinfer\.so\.(\d+)\0"),
}
_SHARED = re.compile(r".*\.(so(\.[0-9]+)*|dll)")


@dataclass(frozen=True)
class Installed:
    """A distribution: its version, and if it is one of TensorRT's the shared libraries it brought."""

    version: str
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """All a diagnosis goes by; `cuda` is what the driver serves at most, empty where none answers.

    `asked` says which major release of "cuda" and "tensorrt" ONNX Runtime's own libraries are made for; `loads` which
    major releases of the full TensorRT the system's loader finds.
    """

    system: str
    processor: str
    cpu: str
    cuda: str
    gpus: tuple[Gpu, ...]
    installed: Mapping[str, Installed]
    asked: Mapping[str, str]
    loads: tuple[str, ...]
    providers: tuple[Provider, ...]

    def version(self, name: str) -> str:
        """The version of a distribution, empty if it is not installed."""
        return self.installed[name].version if name in self.installed else ""


def collect() -> Inventory:
    """Looks, and tries in child processes what cannot be seen."""
    spec = importlib.util.find_spec("onnxruntime")
    folder = Path(spec.origin).parent / "capi" if spec and spec.origin else None
    return Inventory(
        system=platform.system().lower(),
        processor=platform.machine().lower(),
        cpu=machine.cpu(),
        cuda=machine.cuda(),
        gpus=machine.gpus(),
        installed=installed(),
        asked=asked(folder) if folder else {},
        loads=providers.loads(),
        providers=providers.tried() if spec else (),
    )


def installed(path: Sequence[str] | None = None) -> dict[str, Installed]:
    """The distributions that matter here, by their normal names; from `path`, or where Python looks."""
    named: dict[str, Installed] = {}
    for one in metadata.distributions(path=list(sys.path if path is None else path)):
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower()
        if _OURS.fullmatch(name) and name not in named:
            files = (one.files or ()) if name.startswith("tensorrt") else ()  # the others have thousands
            libraries = sorted({file.name for file in files if _SHARED.fullmatch(file.name)})
            named[name] = Installed(one.version, tuple(libraries))
    return dict(sorted(named.items()))


def asked(folder: Path) -> dict[str, str]:
    """Which major releases the provider libraries in ONNX Runtime's folder are linked to; they are not loaded."""
    majors = {}
    for name, (whose, pattern) in _ASKED.items():
        path = folder / name
        if not path.is_file() or not path.stat().st_size:
            continue
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            said = re.search(pattern, mapped)
            if said:
                majors[whose] = said[1].decode()
    return majors
