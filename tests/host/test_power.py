"""Clocks and power mode are read from files and tools, and a source that fails is recorded with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.host import power


def policy(folder: Path, number: int, governor: str, mhz: int, limit: int) -> None:
    home = folder / f"cpu{number}" / "cpufreq"
    home.mkdir(parents=True)
    for name, text in (("scaling_governor", governor), ("scaling_cur_freq", mhz), ("scaling_max_freq", limit)):
        (home / name).write_text(f"{text}\n")


def tool(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_what_the_system_and_the_tools_say_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy(tmp_path, 0, "schedutil", 729_600, 1_510_400)
    policy(tmp_path, 1, "performance", 1_510_400, 1_984_000)
    tool(tmp_path, "nvpmodel", 'test "$*" = -q && echo "NV Power Mode: MAXN" && echo 0')
    tool(tmp_path, "jetson_clocks", "echo 'Error: run as root' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    state = power.read(tmp_path)
    assert state.readings["cpufreq"] == "performance, schedutil; 729 to 1510 MHz, limit 1510 to 1984 MHz"
    assert state.readings["nvpmodel"] == "NV Power Mode: MAXN; 0"
    assert "run as root" in state.unavailable["jetson_clocks"]
    assert {*state.readings, *state.unavailable} == {"cpufreq", "nvpmodel", "jetson_clocks", "nvidia-smi"}


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy(tmp_path / "odd", 0, "schedutil", 1, 1)
    (tmp_path / "odd/cpu0/cpufreq/scaling_max_freq").write_text("<unknown>")
    monkeypatch.setattr(power, "_SYSTEM_FOLDERS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for folder in (tmp_path, tmp_path / "odd"):
        state = power.read(folder)
        assert not state.readings
        assert state.unavailable["nvpmodel"] == "it is not installed"
