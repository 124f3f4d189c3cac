"""Inventories of example machines: their drivers, packages and libraries."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.doctor.inventory import Installed, Inventory
from deploytool.doctor.providers import CPU, CUDA, TENSORRT, Provider
from deploytool.host.machine import Gpu

RTX = Gpu("NVIDIA GeForce RTX 4090", "8.9")
ORIN = Gpu("Orin", "8.7")
MISSING_LIBRARY = "EP Error: libcublasLt.so.13: cannot open shared object file"


def cpu_machine(**versions: str) -> Inventory:
    """A PC without a GPU."""
    return Inventory(
        *("linux", "x86_64", "a processor", "", ()),
        installed=packages({"onnxruntime": "1.31.1", "numpy": "2.4.6", **package_versions(versions)}),
        linked_releases={},
        loadable_tensorrt=(),
        providers=(Provider(CPU, True),),
    )


def gpu_machine(cuda: str = "13.0", on_tensorrt: str = "", on_cuda: str = "", **versions: str) -> Inventory:
    """A PC with a GPU and onnxruntime-gpu; `on_tensorrt` and `on_cuda` are reasons why a provider does not start."""
    return Inventory(
        *("linux", "x86_64", "a processor", cuda, (RTX,)),
        installed=packages({"onnxruntime-gpu": "1.31.1", "nvidia-cudnn-cu13": "9.28", **package_versions(versions)}),
        linked_releases={"cuda": "13", "tensorrt": "10"},
        loadable_tensorrt=() if on_tensorrt else ("10",),
        providers=(
            *(Provider(TENSORRT, not on_tensorrt, on_tensorrt), Provider(CUDA, not on_cuda, on_cuda)),
            Provider(CPU, True),
        ),
    )


def package_versions(versions: Mapping[str, str]) -> dict[str, str]:
    """Keyword arguments as package names, with hyphens."""
    return {name.replace("_", "-"): version for name, version in versions.items()}


def packages(versions: Mapping[str, str]) -> dict[str, Installed]:
    """Installed packages; `tensorrt` has its library unless its version ends with -empty."""
    libraries = {name: ("libnvinfer.so.10",) for name in versions if name == "tensorrt"}
    return {
        name: Installed(version.removesuffix("-empty"), () if "empty" in version else libraries.get(name, ()))
        for name, version in versions.items()
    }
