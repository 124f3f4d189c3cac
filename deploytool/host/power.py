"""Reads the clocks and the power mode of this machine from the system and from NVIDIA's tools; changes neither."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deploytool.errors import StageFailed
from deploytool.host import process

_CPUFREQ = Path("/sys/devices/system/cpu")
_SYSTEM_FOLDERS = "/usr/sbin:/sbin"  # which the PATH of an ssh login often lacks
_SMI_FIELDS = "clocks.sm,clocks.max.sm,clocks.mem,pstate,power.draw,power.limit,clocks_throttle_reasons.active"
_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "nvpmodel": ("-q",),
    "jetson_clocks": ("--show",),
    "nvidia-smi": (f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader"),
}
_SECONDS, _LONGEST = 10.0, 2000  # for a tool, and of the characters that are kept


@dataclass(frozen=True)
class PowerState:
    """Clocks and power mode: what each source says, in one line, and why another one says nothing."""

    readings: Mapping[str, str]
    unavailable: Mapping[str, str]


def read(cpufreq: Path = _CPUFREQ) -> PowerState:
    """The present clocks and power mode; a source that fails is recorded with its reason."""
    sources: dict[str, Callable[[], str]] = {"cpufreq": partial(_cpu_clocks, cpufreq)}
    sources |= {name: partial(_ask, name) for name in _COMMANDS}
    readings, unavailable = dict[str, str](), dict[str, str]()
    for name, source in sources.items():
        with _noting(name, unavailable):
            readings[name] = source()
    return PowerState(readings, unavailable)


@contextmanager
def _noting(name: str, unavailable: dict[str, str]) -> Iterator[None]:
    """Notes why a source says nothing."""
    try:
        yield
    except (StageFailed, OSError, ValueError) as error:
        unavailable[name] = str(error)


def _cpu_clocks(folder: Path) -> str:
    """The governors of the processors, and the lowest and highest of their present clocks and of their limits."""
    policies = sorted(folder.glob("cpu[0-9]*/cpufreq"))
    if not policies:
        raise OSError("the system does not tell them")
    governors = ", ".join(sorted({_text(policy / "scaling_governor") for policy in policies}))
    now, most = (
        [int(_text(policy / name)) // 1000 for policy in policies] for name in ("scaling_cur_freq", "scaling_max_freq")
    )
    return f"{governors}; {min(now)} to {max(now)} MHz, limit {min(most)} to {max(most)} MHz"


def _ask(name: str) -> str:
    """What a tool prints, in one line."""
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_FOLDERS)
    if found is None:
        raise OSError("it is not installed")
    printed = process.run_limited([found, *_COMMANDS[name]], what=name, seconds=_SECONDS, gibibytes=float("inf"))
    return "; ".join(line.strip() for line in printed.splitlines() if line.strip())[:_LONGEST]


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii", errors="replace").strip()
