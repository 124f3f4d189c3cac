"""Known traps: broken combinations of packages, libraries and drivers, each with the command that fixes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deploytool.doctor.inventory import RUNTIMES, Inventory
from deploytool.doctor.providers import CPU, CUDA, TENSORRT
from deploytool.spec import StrEnum

_GPU_RUNTIME_PACKAGE = "'onnxruntime-gpu[cuda,cudnn]'"
_INSTALL_GPU_RUNTIME, _INSTALL_CPU_RUNTIME = f"pip install {_GPU_RUNTIME_PACKAGE}", "pip install onnxruntime"
_UNINSTALL_RUNTIMES = f"pip uninstall -y {' '.join(RUNTIMES)}"
_UNSUFFIXED = ("nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cuda-nvrtc")  # their version is the CUDA release


class TrapName(StrEnum):
    """The names of traps; the values are stable, for scripts that read them."""

    BOTH_RUNTIMES = "both runtimes"
    BROKEN_RUNTIME = "broken runtime"
    MIXED_CUDA = "mixed CUDA"
    PLACEHOLDER = "placeholder TensorRT"
    NOT_IN_ENVIRONMENT = "TensorRT not in environment"
    OLD_DRIVER = "old driver"
    NOT_LOADABLE = "TensorRT not loadable"
    VERSION_MISMATCH = "TensorRT version mismatch"
    CPU_FALLBACK = "CPU fallback"
    UNUSED_GPU = "unused GPU"


@dataclass(frozen=True)
class Trap:
    """A problem of this machine, and the command or step that fixes it."""

    name: TrapName
    problem: str
    remedy: str


def find_traps(inventory: Inventory) -> tuple[Trap, ...]:
    """The traps of a machine, in the order in which they should be fixed."""
    return tuple(trap for detect in _DETECTORS if (trap := detect(inventory)))


def _install_runtime(inventory: Inventory) -> str:
    return _INSTALL_GPU_RUNTIME if inventory.gpus else _INSTALL_CPU_RUNTIME


def _both_runtimes(inventory: Inventory) -> Trap | None:
    if not all(inventory.version(name) for name in RUNTIMES):
        return None
    problem = "onnxruntime and onnxruntime-gpu are both installed, and each overwrites files of the other"
    return Trap(TrapName.BOTH_RUNTIMES, problem, f"{_UNINSTALL_RUNTIMES} && {_install_runtime(inventory)}")


def _broken_runtime(inventory: Inventory) -> Trap | None:
    failures = (provider.reason for provider in inventory.providers if provider.name == CPU and not provider.starts)
    reason = next(failures, None)
    if reason is None:
        return None
    name = next((name for name in reversed(RUNTIMES) if inventory.version(name)), RUNTIMES[0])
    remedy = f"pip install --force-reinstall --no-deps {name}=={inventory.version(name)}"
    return Trap(TrapName.BROKEN_RUNTIME, f"ONNX Runtime does not start on the CPU: {reason}", remedy)


def cuda_of(name: str, version: str) -> str:
    """The major CUDA release that a package is for; empty if name and version do not say."""
    suffix = re.search(r"[-_]cu(\d\d)\b", name) or re.search(r"\+cu(\d\d)\d", version)
    if suffix:
        return suffix[1]
    return version.partition(".")[0] if name in _UNSUFFIXED else ""


def _mixed_cuda(inventory: Inventory) -> Trap | None:
    """CUDA libraries of several major releases; that of ONNX Runtime, else torch, else the driver is kept."""
    releases = {name: cuda_of(name, package.version) for name, package in inventory.installed.items()}
    libraries = {
        name: major for name, major in releases.items() if major and name.startswith(("nvidia-", "tensorrt-cu"))
    }
    majors = sorted(set(libraries.values()))
    if len(majors) < 2:
        return None
    needed = {"onnxruntime-gpu": inventory.linked_releases.get("cuda", ""), "torch": releases.get("torch", "")}
    needed = {name: major for name, major in needed.items() if major}
    users = ", ".join(f"{name} {inventory.version(name)} needs CUDA {major}" for name, major in needed.items())
    problem = f"libraries of CUDA {' and '.join(majors)} are both installed" + (f": {users}" if users else "")
    if len(set(needed.values())) > 1:
        keep = needed["onnxruntime-gpu"]
        remedy = f"pip uninstall -y torch {_other_releases(libraries, keep)}, then install torch for CUDA {keep}"
        return Trap(TrapName.MIXED_CUDA, problem, remedy)
    driver = inventory.cuda.partition(".")[0]
    keep = next(iter(needed.values()), driver if driver in majors else majors[-1])
    return Trap(TrapName.MIXED_CUDA, problem, f"pip uninstall -y {_other_releases(libraries, keep)}")


def _other_releases(libraries: Mapping[str, str], keep: str) -> str:
    """The names of the libraries of other CUDA releases than `keep`."""
    return " ".join(name for name, major in libraries.items() if major != keep)


def _placeholder(inventory: Inventory) -> Trap | None:
    """A `tensorrt` package without libraries, as a package index has it that only reserves the name."""
    names = [name for name in inventory.installed if re.fullmatch(r"tensorrt(-cu\d+)?(-libs|-bindings)?", name)]
    libraries = {library for name in names for library in inventory.installed[name].libraries}
    complete = any(library.startswith(("libnvinfer.", "nvinfer")) for library in libraries)
    if not names or inventory.loadable_tensorrt or complete:
        return None
    problem = f"{names[0]} {inventory.version(names[0])} is installed without libnvinfer, and the system has none"
    remedy = f"pip uninstall -y {' '.join(names)}, then install TensorRT from NVIDIA: its own index, archive or JetPack"
    return Trap(TrapName.PLACEHOLDER, problem, remedy)


def _not_in_environment(inventory: Inventory) -> Trap | None:
    """TensorRT of the system, as in JetPack, whose Python module a virtual environment does not contain."""
    if not inventory.loadable_tensorrt or inventory.version("tensorrt"):
        return None
    library = f"libnvinfer.so.{inventory.loadable_tensorrt[-1]}"
    problem = f"the system has {library}, but this Python environment has no tensorrt module"
    remedy = "create the environment again: python3 -m venv --system-site-packages .venv"
    return Trap(TrapName.NOT_IN_ENVIRONMENT, problem, remedy)


def _old_driver(inventory: Inventory) -> Trap | None:
    needed, supported = inventory.linked_releases.get("cuda", ""), inventory.cuda.partition(".")[0]
    if not (needed and supported) or int(supported) >= int(needed):
        return None
    problem = f"the driver supports CUDA {inventory.cuda}, but ONNX Runtime's CUDA provider needs CUDA {needed}"
    return Trap(TrapName.OLD_DRIVER, problem, f"update the NVIDIA driver to one that supports CUDA {needed}")


def _other_tensorrt(inventory: Inventory) -> Trap | None:
    """ONNX Runtime's TensorRT provider is linked to one major release of TensorRT, which the loader does not find."""
    needed, installed = inventory.linked_releases.get("tensorrt", ""), inventory.version("tensorrt")
    loadable = inventory.loadable_tensorrt
    if not needed or not inventory.gpus or needed in loadable or not (installed or loadable):
        return None
    if installed.partition(".")[0] == needed:
        problem = f"tensorrt {installed} is installed in a folder that the dynamic loader does not search"
        return Trap(TrapName.NOT_LOADABLE, problem, "add the folder tensorrt_libs of site-packages to LD_LIBRARY_PATH")
    present = installed or ", ".join(loadable)
    problem = f"ONNX Runtime's TensorRT provider needs libnvinfer.so.{needed}, but TensorRT {present} is installed"
    remedy = f"pip install 'tensorrt=={needed}.*'; deploytool's own engines do not need it"
    return Trap(TrapName.VERSION_MISMATCH, problem, remedy)


def _cpu_fallback(inventory: Inventory) -> Trap | None:
    """A GPU provider that is listed but does not start: ONNX Runtime would silently use the CPU instead."""
    failed = [provider for provider in inventory.providers if not provider.starts and provider.name in (CUDA, TENSORRT)]
    if not failed:
        return None
    if not inventory.gpus:
        problem = f"{failed[0].name} is listed but cannot start: no CUDA GPU responds"
        remedy = f"{_UNINSTALL_RUNTIMES} && {_INSTALL_CPU_RUNTIME}, or install the NVIDIA driver if there is a GPU"
        return Trap(TrapName.CPU_FALLBACK, problem, remedy)
    cuda = next((provider for provider in failed if provider.name == CUDA), None)
    if cuda is None:
        needed = inventory.linked_releases.get("tensorrt", "10")
        problem = f"{TENSORRT} is listed but does not start: {failed[0].reason}"
        return Trap(TrapName.CPU_FALLBACK, problem, f"pip install 'tensorrt=={needed}.*', or use {CUDA}, which starts")
    problem = f"{CUDA} is listed but does not start: {cuda.reason}"
    return Trap(TrapName.CPU_FALLBACK, problem, f"pip install --upgrade --force-reinstall {_GPU_RUNTIME_PACKAGE}")


def _unused_gpu(inventory: Inventory) -> Trap | None:
    if not inventory.gpus or not inventory.providers or any(item.name == CUDA for item in inventory.providers):
        return None
    if inventory.processor == "aarch64" and inventory.gpus[0].capability in ("7.2", "8.7"):
        remedy = "pip uninstall -y onnxruntime, then install JetPack's onnxruntime-gpu"
    else:
        remedy = f"{_UNINSTALL_RUNTIMES} && {_INSTALL_GPU_RUNTIME}"
    problem = f"{inventory.gpus[0].name} is present, but this ONNX Runtime has no CUDA provider"
    return Trap(TrapName.UNUSED_GPU, problem, remedy)


_DETECTORS: tuple[Callable[[Inventory], Trap | None], ...] = (
    *(_both_runtimes, _broken_runtime, _mixed_cuda, _placeholder, _not_in_environment),
    *(_old_driver, _other_tensorrt, _cpu_fallback, _unused_gpu),
)
