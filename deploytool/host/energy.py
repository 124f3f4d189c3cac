"""Measures the power that this machine draws during a piece of work, where it tells it; a failure is no error.

Sources: the energy counter of an NVIDIA GPU (NVML), the power sensor of a Jetson module (INA3221), and the energy
counters of the processors (RAPL, which most systems show only to root). Each includes what else the GPU, the module or
the processors do meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")
_SENSORS = Path("/sys/bus/i2c/drivers/ina3221")
_NVML = "nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1"
_MODULE_LABELS = ("VDD_IN", "POM_5V_IN")  # of the sensor's channel that feeds the whole module
_SHORTEST_S = 1.0  # of a piece of work: the counters advance in steps
_SAMPLE_S = 0.02

_UNREADABLE = (OSError, ValueError, AttributeError, RuntimeError)  # a library, file, symbol or thread that is missing

Joules = Callable[[], float]


@dataclass(frozen=True)
class Power:
    """The mean power in watts, and what it is of."""

    watts: float
    source: str


class Meter:
    """A measurement that has begun, with the function that gives the joules since any time; None without a source."""

    def __init__(self, source: str, joules: Joules | None) -> None:
        self._source, self._joules = source, joules
        self._begun, self._before = time.monotonic(), joules() if joules else 0.0

    def stop(self) -> Power | None:
        """The mean power since the beginning; None if it is unknown, or if the work took less than a second."""
        if self._joules is None:
            return None
        seconds = time.monotonic() - self._begun
        with suppress(*_UNREADABLE):
            used = self._joules() - self._before
            if seconds >= _SHORTEST_S and used > 0:
                return Power(used / seconds, self._source)
        return None


def start(device: str, powercap: Path = _POWERCAP, sensors: Path = _SENSORS) -> Meter:
    """Begins to measure; `device` is where the work is done: cpu, cuda or tensorrt."""
    own = (_processors, powercap) if device == "cpu" else (_gpu, Path())
    for find, folder in ((_module, sensors), own):
        with suppress(*_UNREADABLE):
            if found := find(folder):
                return Meter(*found)
    return Meter("", None)


def _module(folder: Path) -> tuple[str, Joules] | None:
    """The sensor of a Jetson module, whose power is sampled by a thread; it ends with this process."""
    for label in sorted(folder.glob("*/hwmon/hwmon*/in*_label")):
        if label.read_text(encoding="ascii").strip() in _MODULE_LABELS:
            number = label.name[len("in") : -len("_label")]
            files = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
            return "the module", _Sampled(*files).joules
    return None


class _Sampled:
    """The energy by samples of millivolts and milliamperes in two files: each holds until the next."""

    def __init__(self, volts: Path, amperes: Path) -> None:
        self._files, self._lock = (volts, amperes), threading.Lock()
        self._total, self._at, self._last = 0.0, time.monotonic(), self._watts()
        threading.Thread(target=self._sample, daemon=True).start()

    def joules(self) -> float:
        """The energy until now; raises OSError if the sensor cannot be read any more."""
        with self._lock:
            now, self._last, last = time.monotonic(), self._watts(), self._last
            self._total += last * (now - self._at)
            self._at = now
            return self._total

    def _watts(self) -> float:
        volts, amperes = map(_number, self._files)
        return volts * amperes / 1e6

    def _sample(self) -> None:
        with suppress(*_UNREADABLE):
            while True:
                time.sleep(_SAMPLE_S)
                self.joules()


def _processors(folder: Path) -> tuple[str, Joules] | None:
    """The counters of all processor packages; each begins anew at its highest value."""
    files = sorted(folder.glob("intel-rapl:[0-9]*/energy_uj"))
    packages = [file.parent for file in files if file.parent.name.count(":") == 1]  # the others are parts of these
    if not packages:
        return None
    counters = [_Wrapping(path / "energy_uj", _number(path / "max_energy_range_uj")) for path in packages]
    return "the processors", lambda: sum(counter.joules() for counter in counters)


class _Wrapping:
    """A counter of microjoules in a file, which begins anew at `largest`."""

    def __init__(self, file: Path, largest: float) -> None:
        self._file, self._largest, self._last, self._total = file, largest, _number(file), 0.0

    def joules(self) -> float:
        """The energy since the counter was first read."""
        now = _number(self._file)
        self._total += now - self._last + (self._largest if now < self._last else 0.0)
        self._last = now
        return self._total / 1e6


def _gpu(_: Path) -> tuple[str, Joules] | None:
    """The counter of the first GPU, in millijoules since the driver was loaded."""
    nvml = ctypes.CDLL(_NVML)
    handle, used = ctypes.c_void_p(), ctypes.c_ulonglong()
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) != 0:
        return None

    def joules() -> float:
        if nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(used)) != 0:
            raise OSError("the GPU does not tell its energy")
        return used.value / 1e3

    return "the GPU", joules


def _number(file: Path) -> float:
    return float(file.read_text(encoding="ascii"))
