"""Describes this machine: its GPUs, CUDA version and CPU, and the versions of installed distributions."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from deploytool.host import control_groups

_DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
VNNI = ("avx512_vnni", "avx_vnni")  # features of x86 processors that add INT8 products in 32 bits; one is enough
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute values of the CUDA driver API


@dataclass(frozen=True)
class Gpu:
    """One CUDA device: its name, and its compute capability such as "8.9"."""

    name: str
    capability: str


@cache
def gpus() -> tuple[Gpu, ...]:
    """The CUDA devices that the driver lists; empty without a working driver."""
    try:
        cuda = ctypes.CDLL(_DRIVER)
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_gpu(cuda, index) for index in range(count.value))


@cache
def cuda() -> str:
    """The latest CUDA version that the driver supports, such as "13.0"; empty without a working driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return ""
    version = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(), f"{major.value}.{minor.value}")


@cache
def version(distribution: str) -> str | None:
    """The version of a distribution without importing it; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@cache
def cpu() -> str:
    """The name of the CPU, with its number of threads."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} threads)" if names else platform.machine()


@cache
def int8_features() -> tuple[str, ...]:
    """Which of `VNNI` this processor has, sorted; none if that is unknown, or if it is no x86 processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ()
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return tuple(sorted(set(VNNI).intersection(flags[1].split()))) if flags else ()


def is_x86() -> bool:
    """Whether this processor is an x86 of 64 bits."""
    return platform.machine().lower() in ("x86_64", "amd64")


def saturates_int8() -> bool:
    """Whether sums of INT8 products may saturate at 16 bits: on x86 processors without VNNI, or if that is unknown."""
    return is_x86() and not int8_features()


def processors() -> int:
    """The processors that this process may use: those it is bound to, or fewer if its control groups allow less."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min((bound, *_allowed_processors()))


def thread_limit() -> int:
    """The threads that a library may compute with; 0 for no limit.

    They are those of OMP_NUM_THREADS, which torch obeys by itself, or as many as there are processors for this process
    if the machine has more: ONNX Runtime would start a thread for each core of the machine.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if first.isdecimal() and int(first):
        return int(first)
    usable = processors()
    return usable if usable < (os.cpu_count() or 1) else 0


def _allowed_processors() -> Iterator[int]:
    """The processors whose time each control group allows, rounded up."""
    for folder, version in control_groups.folders("cpu"):
        with suppress(OSError, ValueError):  # ValueError: the quota is "max"
            if version == 2:
                quota, period = map(int, (folder / "cpu.max").read_text(encoding="ascii").split())
            else:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                quota, period = (int((folder / name).read_text(encoding="ascii")) for name in names)
            if quota > 0 and period > 0:  # cgroups v1 report -1 without a quota
                yield -(-quota // period)
