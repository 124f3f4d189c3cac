from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploytool.host import owner
from tests.conftest import ROOT

_PRINT_NAME = "from deploytool.host import owner; print(owner.name(), flush=True)"


def start(program: str = _PRINT_NAME) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_owner_is_parsed_from_anywhere_in_a_name() -> None:
    assert owner.read(f".making-{owner.name()}.tar") == owner.read(owner.name())
    assert owner.name() != owner.name()


def test_this_process_is_alive() -> None:
    found = owner.read(owner.name())
    assert found is not None
    assert found.pid == os.getpid()
    assert found.alive()


def test_another_process_is_alive_until_it_ends() -> None:
    with start(f"{_PRINT_NAME}; input()") as process:
        found = owner.read(first_line(process))
        assert found is not None
        assert found.alive()
        process.kill()
        process.wait()
        assert found.alive() is False


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    this_process = owner.read(owner.name())
    assert this_process is not None
    older = f"{this_process.machine}-{this_process.pid}-{this_process.started - 1}-00000000"
    found = owner.read(older)
    assert found is not None
    assert found.alive() is False
    (tmp_path / older).touch()
    assert owner.is_abandoned(tmp_path / older)


@pytest.mark.parametrize("name", ["fffffffffff0-1-1-00000000", "somebody", "1-2-3-4", ""])
def test_files_of_unknown_processes_are_abandoned_after_an_hour(tmp_path: Path, name: str) -> None:
    path = tmp_path / f".making-{name}"
    path.touch()
    assert not owner.is_abandoned(path)
    hours_ago = time.time() - 1.1 * owner.ABANDONED_S
    os.utime(path, (hours_ago, hours_ago))
    assert owner.is_abandoned(path)


def test_a_missing_file_is_not_abandoned(tmp_path: Path) -> None:
    assert not owner.is_abandoned(tmp_path / "gone")
