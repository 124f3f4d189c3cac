from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from deploytool.host import machine
from tests.conftest import modules_of


class FakeDriver:
    """A CUDA driver as loaded by `ctypes`; its calls return 0 for success."""

    def __init__(self, working: bool) -> None:
        self.working = working

    def cuInit(self, flags: int) -> int:  # noqa: N802  # the name in the driver
        return 0 if self.working else 100

    def cuDriverGetVersion(self, version: ctypes._Pointer[ctypes.c_int]) -> int:  # noqa: N802
        version._obj.value = 13020  # type: ignore[attr-defined]  # the argument of byref()
        return 0

    def cuDeviceGetCount(self, count: ctypes._Pointer[ctypes.c_int]) -> int:  # noqa: N802
        count._obj.value = 1  # type: ignore[attr-defined]  # the argument of byref()
        return 0

    def cuDeviceGet(self, device: object, index: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetName(self, name: ctypes.Array[ctypes.c_char], size: int, device: object) -> int:  # noqa: N802
        name.value = b"NVIDIA H200"
        return 0

    def cuDeviceGetAttribute(self, value: ctypes._Pointer[ctypes.c_int], which: int, device: object) -> int:  # noqa: N802
        value._obj.value = {75: 9, 76: 0}[which]  # type: ignore[attr-defined]
        return 0


def test_the_cuda_version_of_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(working=True))
    assert machine.cuda.__wrapped__() == "13.2"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(working=False))
    assert machine.cuda.__wrapped__() == ""


def test_the_gpus_of_a_working_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(working=True))
    assert machine.gpus.__wrapped__() == (machine.Gpu("NVIDIA H200", "9.0"),)


def test_a_driver_that_fails_lists_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(working=False))
    assert machine.gpus.__wrapped__() == ()


def test_a_version_is_read_without_importing() -> None:
    assert machine.version("torch")
    assert machine.version("no-such-distribution") is None
    assert "torch" not in modules_of("from deploytool.host import machine; machine.version('torch'); machine.gpus()")
    assert machine.cpu()


@pytest.mark.parametrize(("text", "limit"), [("3", 3), (" 2 ,1", 2), ("", 0), ("many", 0), ("-1", 0), ("0", 0)])
def test_the_limit_of_threads_is_that_of_openmp(text: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "processors", lambda: 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert machine.thread_limit() == limit
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert machine.thread_limit() == 0


def test_a_process_with_fewer_processors_than_the_machine_has_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "processors", lambda: 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.thread_limit() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert machine.thread_limit() == 5


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"above/cpu.max": "max 100000\n"}, 8),
        ({"above/inner/cpu.max": "150000 100000\n", "above/cpu.max": "300000 100000\n"}, 2),
        ({"above/inner/cpu.max": "max 100000\n", "above/cpu.max": "300000 100000\n"}, 3),
        ({"above/cpu.max": "900000 100000\n"}, 8),
        ({"above/cpu.max": "1000 100000\n"}, 1),
        ({"above/cpu.max": "nonsense\n"}, 8),
        ({"cpu.max": "100000 100000\n"}, 1),  # in a container: the path of the group is that outside
        ({"cpu/above/cpu.cfs_quota_us": "250000\n", "cpu/above/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/above/cpu.cfs_quota_us": "-1\n", "cpu/above/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_processors_are_those_whose_time_the_control_groups_allow(
    files: Mapping[str, str],
    expected: int,
    control_groups: Callable[[Mapping[str, str]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    control_groups(files)
    assert machine.processors() == expected


@pytest.mark.parametrize(
    ("processor", "flags", "expected"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512_vnni", False),
        ("x86_64", "flags\t\t: fpu avx_vnni sse", False),
        ("x86_64", "flags\t\t: fpu avx2 fma\nbugs: avx512_vnni", True),
        ("AMD64", None, True),
        ("aarch64", None, False),
    ],
)
def test_int8_saturates_on_x86_without_vnni(
    processor: str, flags: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(path: Path, **_: object) -> str:
        if flags is None:
            raise FileNotFoundError(path)
        return flags

    machine.int8_features.cache_clear()
    monkeypatch.setattr("platform.machine", lambda: processor)
    monkeypatch.setattr(Path, "read_text", read_text)
    try:
        assert machine.saturates_int8() is expected
    finally:
        machine.int8_features.cache_clear()
