"""Power is measured from counters and sensors where they are, and nothing that they do is an error."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.host import energy

NOWHERE = Path("/nowhere")


@pytest.fixture(autouse=True)
def half_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_SHORTEST_S", 0.2)
    monkeypatch.setattr(energy, "_NVML", "libno-such-library.so")


def package(folder: Path, name: str, used: int, largest: int) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "max_energy_range_uj").write_text(f"{largest}\n")
    (folder / name / "energy_uj").write_text(f"{used}\n")
    return folder / name / "energy_uj"


def test_the_counters_of_the_processors_are_added_and_may_begin_anew(tmp_path: Path) -> None:
    first, second = (package(tmp_path, f"intel-rapl:{number}", 900_000, 1_000_000) for number in range(2))
    package(tmp_path, "intel-rapl:0:0", 0, 1_000_000)  # a part of the first
    meter = energy.start("cpu", tmp_path, NOWHERE)
    time.sleep(0.25)
    first.write_text("100000\n")  # 0.2 J later
    second.write_text("950000\n")  # 0.05 J later
    power = meter.stop()
    assert power is not None
    assert power.source == "the processors"
    assert 0.25 / 2 < power.watts <= 0.25 / 0.25
    assert energy.start("cuda", tmp_path, NOWHERE).stop() is None


def test_the_sensor_of_a_module_is_sampled(tmp_path: Path) -> None:
    home = tmp_path / "1-0040" / "hwmon" / "hwmon3"
    home.mkdir(parents=True)
    for number, label, milliamperes in ((1, "VDD_CPU", 9_000), (2, "VDD_IN", 400)):
        (home / f"in{number}_label").write_text(f"{label}\n")
        (home / f"in{number}_input").write_text("5000\n")
        (home / f"curr{number}_input").write_text(f"{milliamperes}\n")
    for device in ("cuda", "cpu"):
        meter = energy.start(device, NOWHERE, tmp_path)
        time.sleep(0.25)
        power = meter.stop()
        assert power is not None
        assert power.source == "the module"
        assert power.watts == pytest.approx(2.0, rel=0.05)
    (home / "curr2_input").write_text("none")
    assert meter.stop() is None


def test_the_counter_of_a_gpu_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()

    def total(handle: Any, used: Any) -> int:
        used._obj.value = int(1000 * 50 * (time.monotonic() - begun))  # 50 W
        return 0

    library = SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetHandleByIndex_v2=lambda index, handle: 0,
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    meter = energy.start("tensorrt", NOWHERE, NOWHERE)
    time.sleep(0.3)
    power = meter.stop()
    assert power is not None
    assert power.watts == pytest.approx(50, rel=0.1)
    library.nvmlDeviceGetTotalEnergyConsumption = lambda handle, used: 3
    assert meter.stop() is None
    library.nvmlInit_v2 = lambda: 9
    assert energy.start("cuda", NOWHERE, NOWHERE).stop() is None


def test_a_machine_without_counters_and_short_work_have_no_power(tmp_path: Path) -> None:
    counter = package(tmp_path, "intel-rapl:0", 0, 1_000_000)
    meter = energy.start("cpu", tmp_path, NOWHERE)
    counter.write_text("500000")
    assert meter.stop() is None
    counter.unlink()
    counter.symlink_to(NOWHERE)
    for device in ("cpu", "cuda"):
        assert energy.start(device, tmp_path, NOWHERE).stop() is None
