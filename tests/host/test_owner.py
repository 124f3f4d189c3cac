from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploytool.host import owner
from tests.conftest import ROOT

_NAMED = "from deploytool.host import owner; print(owner.name(), flush=True)"


def named(program: str = _NAMED) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_name_tells_its_owner_wherever_it_stands() -> None:
    assert owner.read(f".making-{owner.name()}.tar") == owner.read(owner.name())
    assert owner.name() != owner.name()


def test_this_process_is_alive() -> None:
    found = owner.read(owner.name())
    assert found is not None
    assert found.pid == os.getpid()
    assert found.alive()


def test_another_process_is_alive_until_it_ends() -> None:
    with named(f"{_NAMED}; input()") as process:
        found = owner.read(said(process))
        assert found is not None
        assert found.alive()
        process.kill()
        process.wait()
        assert found.alive() is False


def test_a_process_that_took_the_number_of_a_dead_one_is_another(tmp_path: Path) -> None:
    mine = owner.read(owner.name())
    assert mine is not None
    older = f"{mine.machine}-{mine.pid}-{mine.started - 1}-00000000"
    found = owner.read(older)
    assert found is not None
    assert found.alive() is False
    (tmp_path / older).touch()
    assert owner.is_abandoned(tmp_path / older)


@pytest.mark.parametrize("name", ["fffffffffff0-1-1-00000000", "somebody", "1-2-3-4", ""])
def test_who_cannot_be_asked_has_an_hour(tmp_path: Path, name: str) -> None:
    left = tmp_path / f".making-{name}"
    left.touch()
    assert not owner.is_abandoned(left)
    hours_ago = time.time() - 1.1 * owner.ABANDONED_S
    os.utime(left, (hours_ago, hours_ago))
    assert owner.is_abandoned(left)


def test_what_is_gone_is_not_abandoned(tmp_path: Path) -> None:
    assert not owner.is_abandoned(tmp_path / "gone")
