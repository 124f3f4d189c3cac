"""The traps that machines like this one fall into, each with the very command that mends it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deploytool.doctor.inventory import RUNTIMES, Inventory
from deploytool.doctor.providers import CPU, CUDA, TENSORRT
from deploytool.spec import Word

_GPU_RUNTIME, _CPU_RUNTIME = "pip install 'onnxruntime-gpu[cuda,cudnn]'", "pip install onnxruntime"
_BOTH = f"pip uninstall -y {' '.join(RUNTIMES)}"
_UNSUFFIXED = ("nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cuda-nvrtc")  # from 13 on their version says which CUDA


class Name(Word):
    """What a trap is called, in every version."""

    BOTH_RUNTIMES = "both runtimes"
    BROKEN_RUNTIME = "broken runtime"
    MIXED_CUDA = "mixed CUDA"
    PLACEHOLDER = "placeholder TensorRT"
    UNSEEN = "unseen TensorRT"
    OLD_DRIVER = "old driver"
    OUT_OF_SIGHT = "TensorRT out of sight"
    OTHER_TENSORRT = "other TensorRT"
    FALLS_BACK = "falls back"
    IDLE_GPU = "idle GPU"


@dataclass(frozen=True)
class Trap:
    """Something that is wrong here, and what to type."""

    name: Name
    problem: str
    mend: str


def find_traps(found: Inventory) -> tuple[Trap, ...]:
    """The traps this machine is in, the one to mend first at the front."""
    return tuple(trap for look in _LOOKS if (trap := look(found)))


def _runtime(found: Inventory) -> str:
    return _GPU_RUNTIME if found.gpus else _CPU_RUNTIME


def _both_runtimes(found: Inventory) -> Trap | None:
    if not all(found.version(name) for name in RUNTIMES):
        return None
    problem = "onnxruntime and onnxruntime-gpu are both installed, and each overwrites the other's files"
    return Trap(Name.BOTH_RUNTIMES, problem, f"{_BOTH} && {_runtime(found)}")


def _broken_runtime(found: Inventory) -> Trap | None:
    status = next((each.reason for each in found.providers if each.name == CPU and not each.starts), None)
    if status is None:
        return None
    name = next((name for name in reversed(RUNTIMES) if found.version(name)), RUNTIMES[0])
    mend = f"pip install --force-reinstall --no-deps {name}=={found.version(name)}"
    return Trap(Name.BROKEN_RUNTIME, f"ONNX Runtime does not start on the CPU: {status}", mend)


def cuda_of(name: str, version: str) -> str:
    """The CUDA major release that a distribution is for, empty if its name and version do not say."""
    said = re.search(r"[-_]cu(\d\d)\b", name) or re.search(r"\+cu(\d\d)\d", version)
    if said:
        return said[1]
    return version.partition(".")[0] if name in _UNSUFFIXED else ""


def _mixed_cuda(found: Inventory) -> Trap | None:
    """CUDA libraries of two major releases; the one to keep is that of ONNX Runtime, torch, or else the driver."""
    of = {name: cuda_of(name, one.version) for name, one in found.installed.items()}
    libraries = {name: major for name, major in of.items() if major and name.startswith(("nvidia-", "tensorrt-cu"))}
    majors = sorted(set(libraries.values()))
    if len(majors) < 2:
        return None
    wanted = {"onnxruntime-gpu": found.asked.get("cuda", ""), "torch": of.get("torch", "")}
    wanted = {name: major for name, major in wanted.items() if major}
    both = ", ".join(f"{name} {found.version(name)} is made for CUDA {major}" for name, major in wanted.items())
    problem = f"libraries of CUDA {' and '.join(majors)} are installed side by side" + (f": {both}" if both else "")
    if len(set(wanted.values())) > 1:
        keep = wanted["onnxruntime-gpu"]
        mend = f"pip uninstall -y torch {_others(libraries, keep)}, then install a torch made for CUDA {keep}"
        return Trap(Name.MIXED_CUDA, problem, mend)
    driver = found.cuda.partition(".")[0]
    keep = next(iter(wanted.values()), driver if driver in majors else majors[-1])
    return Trap(Name.MIXED_CUDA, problem, f"pip uninstall -y {_others(libraries, keep)}")


def _others(libraries: Mapping[str, str], keep: str) -> str:
    return " ".join(name for name, major in libraries.items() if major != keep)


def _placeholder(found: Inventory) -> Trap | None:
    """A `tensorrt` that came without its libraries, from an index that only keeps its name."""
    names = [name for name in found.installed if re.fullmatch(r"tensorrt(-cu\d+)?(-libs|-bindings)?", name)]
    brought = {library for name in names for library in found.installed[name].libraries}
    if not names or found.loads or any(library.startswith(("libnvinfer.", "nvinfer")) for library in brought):
        return None
    problem = f"{names[0]} {found.version(names[0])} is installed, and no libnvinfer with it or anywhere else"
    mend = f"pip uninstall -y {' '.join(names)}, then install TensorRT from NVIDIA: its own index, archive or JetPack"
    return Trap(Name.PLACEHOLDER, problem, mend)


def _unseen(found: Inventory) -> Trap | None:
    """A system's TensorRT, as JetPack brings it, whose Python module a plain virtual environment does not see."""
    if not found.loads or found.version("tensorrt"):
        return None
    problem = f"libnvinfer.so.{found.loads[-1]} is on this system, and this Python does not see its tensorrt module"
    return Trap(Name.UNSEEN, problem, "make the environment anew: python3 -m venv --system-site-packages .venv")


def _old_driver(found: Inventory) -> Trap | None:
    asked, serves = found.asked.get("cuda", ""), found.cuda.partition(".")[0]
    if not (asked and serves) or int(serves) >= int(asked):
        return None
    problem = f"the driver serves CUDA {found.cuda}, and ONNX Runtime's CUDA provider is made for CUDA {asked}"
    return Trap(Name.OLD_DRIVER, problem, f"update the NVIDIA driver to one that serves CUDA {asked}")


def _other_tensorrt(found: Inventory) -> Trap | None:
    """ONNX Runtime's TensorRT provider is linked to one major release, and serves with no other."""
    asked, here = found.asked.get("tensorrt", ""), found.version("tensorrt")
    if not asked or not found.gpus or asked in found.loads or not (here or found.loads):
        return None
    if here.partition(".")[0] == asked:
        mend = "add the folder tensorrt_libs of your site-packages to LD_LIBRARY_PATH"
        return Trap(Name.OUT_OF_SIGHT, f"tensorrt {here} is installed where the loader does not look", mend)
    problem = f"ONNX Runtime's TensorRT provider needs libnvinfer.so.{asked}, and here is TensorRT "
    mend = f"pip install 'tensorrt=={asked}.*'; deploytool's own engines need no such thing"
    return Trap(Name.OTHER_TENSORRT, problem + (here or ", ".join(found.loads)), mend)


def _falls_back(found: Inventory) -> Trap | None:
    """A provider that is listed and does not start: whoever asks for it without looking gets the CPU."""
    lost = [each for each in found.providers if not each.starts and each.name in (CUDA, TENSORRT)]
    if not lost:
        return None
    if not found.gpus:
        problem = f"{lost[0].name} is listed and cannot start: no CUDA GPU answers here"
        mend = f"{_BOTH} && {_CPU_RUNTIME}, or install the NVIDIA driver if there is a GPU"
        return Trap(Name.FALLS_BACK, problem, mend)
    cuda = next((each for each in lost if each.name == CUDA), None)
    if cuda is None:
        asked = found.asked.get("tensorrt", "10")
        problem = f"{TENSORRT} is listed and does not start: {lost[0].reason}"
        return Trap(Name.FALLS_BACK, problem, f"pip install 'tensorrt=={asked}.*', or do without: {CUDA} starts")
    problem = f"{CUDA} is listed and does not start: {cuda.reason}"
    return Trap(Name.FALLS_BACK, problem, "pip install --upgrade --force-reinstall 'onnxruntime-gpu[cuda,cudnn]'")


def _idle_gpu(found: Inventory) -> Trap | None:
    if not found.gpus or not found.providers or any(each.name == CUDA for each in found.providers):
        return None
    if found.processor == "aarch64" and found.gpus[0].capability in ("7.2", "8.7"):
        mend = "pip uninstall -y onnxruntime, then install JetPack's onnxruntime-gpu"
    else:
        mend = f"{_BOTH} && {_GPU_RUNTIME}"
    return Trap(Name.IDLE_GPU, f"{found.gpus[0].name} answers, and this ONNX Runtime has no CUDA provider", mend)


_LOOKS: tuple[Callable[[Inventory], Trap | None], ...] = (
    *(_both_runtimes, _broken_runtime, _mixed_cuda, _placeholder, _unseen),
    *(_old_driver, _other_tensorrt, _falls_back, _idle_gpu),
)
