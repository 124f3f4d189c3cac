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

DEAD = owner.name().replace(f"-{os.getpid()}-", "-4194303-")  # beyond what this machine gives
_STAYS = """
import sys, tempfile
from deploytool.host import scratch
tempfile.tempdir = sys.argv[1]
print(scratch.make(), flush=True)
input()
"""


@pytest.fixture
def above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def staying(above: Path) -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", _STAYS, str(above)]
    running = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    return running, Path(running.stdout.readline().strip())


def test_a_scratch_folder_is_ours_alone_and_goes(above: Path) -> None:
    with scratch.folder() as made:
        (made / "file").touch()
        assert made.parent == above
        assert made.stat().st_mode & 0o077 == 0
    assert not list(above.iterdir())


def test_what_a_killed_command_left_is_swept_and_what_a_living_one_has_is_not(above: Path) -> None:
    living, its = staying(above)
    killed, left = staying(above)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (above / "deploytool-of-somebody").mkdir()
    (above / f"deploytool-{owner.name()}").symlink_to(above / "deploytool-of-somebody")
    with scratch.folder():
        assert its.is_dir()
        assert not left.exists()
        assert (above / "deploytool-of-somebody").is_dir()
    living.kill()
    living.communicate()


def test_what_somebody_else_left_is_not_swept(above: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = above / f"deploytool-{DEAD}"
    left.mkdir()
    with monkeypatch.context() as other:
        if os.geteuid() == 0:
            os.chown(left, 12345, -1)
        else:
            other.setattr(os, "geteuid", lambda: 12345)
        with scratch.folder():
            assert left.is_dir()
    if os.geteuid() == 0:
        os.chown(left, 0, -1)
    with scratch.folder():
        assert not left.exists()
