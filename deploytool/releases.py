"""The releases of JetPack, the system of Jetson devices: what each contains, and what of it deploytool serves.

A release fixes TensorRT, CUDA and Python together. From NVIDIA's release notes and archive pages, and for
5.1.6, 6.2.2 and 6.2.3 from what devices with them report; ONNX Runtime is the newest version
whose wheel for that Python and aarch64 is published (looked up 2026-11-30).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploytool import runtimes

_L4T_FILE = Path("/etc/nv_tegra_release")
_L4T = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")
_OLDEST_TENSORRT, _OLDEST_PYTHON = (10, 3), (3, 10)  # that engines are built with, and that the device side runs on
_ONNXRUNTIME = {"3.8": "1.19.2", "3.10": "1.23.2", "3.12": "1.32.0"}  # by Python
_XAVIER_AND_ORIN, _ORIN, _THOR = ("7.2", "8.7"), ("8.7",), ("11.0",)


@dataclass(frozen=True)
class Release:
    """A release of JetPack with what it contains; `l4t` is the version of its Jetson Linux, empty if unknown.

    `capabilities` are the compute capabilities of the devices that it is for.
    """

    jetpack: str
    l4t: str
    tensorrt: str
    cuda: str
    python: str
    capabilities: tuple[str, ...]

    @property
    def onnxruntime(self) -> str:
        """The newest ONNX Runtime with a wheel for its Python."""
        return _ONNXRUNTIME[self.python]

    @property
    def refusal(self) -> str | None:
        """Why deploytool does not run on it, or builds no engine there; None if it does both."""
        if _numbers(self.python) < _OLDEST_PYTHON:
            return f"not served: it has Python {self.python}, and deploytool needs {_text(_OLDEST_PYTHON)}"
        if _numbers(self.tensorrt)[:2] < _OLDEST_TENSORRT:
            return f"graphs only: it has TensorRT {self.tensorrt}, and engines need {_text(_OLDEST_TENSORRT)}"
        return None

    def graph_refusal(self, ir_version: int, opset: int) -> str | None:
        """Why its TensorRT does not read a graph; None if it does."""
        return runtimes.refusal(runtimes.TRT, self.tensorrt, ir_version, opset)


RELEASES = (
    Release("5.0.2", "35.1.0", "8.4.1", "11.4", "3.8", _XAVIER_AND_ORIN),
    Release("5.1", "35.2.1", "8.5.2", "11.4", "3.8", _XAVIER_AND_ORIN),
    Release("5.1.1", "35.3.1", "8.5.2", "11.4", "3.8", _XAVIER_AND_ORIN),
    Release("5.1.2", "35.4.1", "8.5.2", "11.4", "3.8", _XAVIER_AND_ORIN),
    Release("5.1.3", "35.5.0", "8.5.2", "11.4", "3.8", _XAVIER_AND_ORIN),
    Release("5.1.4", "35.6.0", "8.5.2", "11.4", "3.8", _XAVIER_AND_ORIN),
    Release("5.1.5", "35.6.1", "8.5.2", "11.4", "3.8", _XAVIER_AND_ORIN),
    Release("5.1.6", "35.6.4", "8.5.2", "11.4", "3.8", _XAVIER_AND_ORIN),
    Release("6.0", "36.3.0", "8.6.2", "12.2", "3.10", _ORIN),
    Release("6.1", "36.4.0", "10.3.0", "12.6", "3.10", _ORIN),
    Release("6.2", "36.4.3", "10.3.0", "12.6", "3.10", _ORIN),
    Release("6.2.1", "36.4.4", "10.3.0", "12.6", "3.10", _ORIN),
    Release("6.2.2", "36.5.0", "10.3.0", "12.6", "3.10", _ORIN),
    Release("6.2.3", "36.5.2", "10.3.0", "12.6", "3.10", _ORIN),
    Release("7.0", "38.2.0", "10.13.3", "13.0", "3.12", _THOR),
    Release("7.1", "38.4.0", "10.13.3", "13.0", "3.12", _THOR),
    Release("7.2", "39.2.0", "10.16.2", "13.2", "3.12", (*_ORIN, *_THOR)),
    Release("7.2.1", "39.2.1", "10.16.2", "13.2", "3.12", (*_ORIN, *_THOR)),
    Release("7.2.2", "", "11.4.1", "13.2", "3.12", (*_ORIN, *_THOR)),
)


def for_capability(capability: str) -> tuple[Release, ...]:
    """The releases for devices of a compute capability, oldest first."""
    return tuple(release for release in RELEASES if capability in release.capabilities)


def installed(file: Path = _L4T_FILE) -> Release | None:
    """The release of this device; None if it is no Jetson, or if the table does not have its release."""
    try:
        match = _L4T.search(file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return of_l4t(f"{match[1]}.{match[2]}") if match else None


def of_l4t(version: str) -> Release | None:
    """The release with a version of Jetson Linux, or the last one before an update of it: 36.4.7 is 6.2.1 updated."""
    wanted = _numbers(version)
    series = [release for release in RELEASES if release.l4t and _numbers(release.l4t)[:2] == wanted[:2]]
    known = [release for release in series if _numbers(release.l4t) <= wanted]
    return max(known, key=lambda release: _numbers(release.l4t)) if known else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _text(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
