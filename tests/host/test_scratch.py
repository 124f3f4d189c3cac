from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deploytool.host import owner, scratch
from tests.conftest import ROOT

DEAD = owner.name().replace(f"-{os.getpid()}-", "-4194303-")  # a PID that no process has
_MAKE_AND_WAIT = """
import sys, tempfile
from deploytool.host import scratch
tempfile.tempdir = sys.argv[1]
print(scratch.make(), flush=True)
input()
"""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def start_command(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", _MAKE_AND_WAIT, str(parent)]
    running = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    return running, Path(running.stdout.readline().strip())


def test_a_scratch_folder_is_private_and_removed(parent: Path) -> None:
    with scratch.folder() as path:
        (path / "file").touch()
        assert path.parent == parent
        assert path.stat().st_mode & 0o077 == 0
    assert not list(parent.iterdir())


def test_only_folders_of_ended_commands_are_removed(parent: Path) -> None:
    living, living_folder = start_command(parent)
    killed, abandoned = start_command(parent)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (parent / "deploytool-of-somebody").mkdir()
    (parent / f"deploytool-{owner.name()}").symlink_to(parent / "deploytool-of-somebody")
    with scratch.folder():
        assert living_folder.is_dir()
        assert not abandoned.exists()
        assert (parent / "deploytool-of-somebody").is_dir()
    living.kill()
    living.communicate()


def test_folders_of_another_user_are_not_removed(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned = parent / f"deploytool-{DEAD}"
    abandoned.mkdir()
    with monkeypatch.context() as other:
        if os.geteuid() == 0:
            os.chown(abandoned, 12345, -1)
        else:
            other.setattr(os, "geteuid", lambda: 12345)
        with scratch.folder():
            assert abandoned.is_dir()
    if os.geteuid() == 0:
        os.chown(abandoned, 0, -1)
    with scratch.folder():
        assert not abandoned.exists()
