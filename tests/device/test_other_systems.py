"""The device commands where modules and calls of Unix are missing, as on Windows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PYTHONPATH

_LACKING = """
import builtins, ctypes, os, signal, stat, subprocess, sys

for module in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
    sys.modules[module] = None
for name in (
    "fork forkpty killpg getpgid setsid geteuid getuid getegid getgid chown fchown lchown fchmod mkfifo "
    "O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_CLOEXEC"
).split():
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGXFSZ", "SIGCHLD", "pthread_sigmask"):
    delattr(signal, name)
usual_open, usual_kill, usual_dll, usual_popen = os.open, os.kill, ctypes.CDLL, subprocess.Popen.__init__

def opened(path, flags, mode=0o777, *, dir_fd=None):
    if dir_fd is not None:
        raise NotImplementedError("dir_fd")
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return usual_open(path, flags, mode)

def kill(process, number):
    if number == 0:
        os.write(2, b"A PROCESS WAS ENDED BY SIGNAL 0\\n")
    usual_kill(process, number)

def dll(name=None, *rest, **more):
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    return usual_dll(name, *rest, **more)

def popen(self, *given, preexec_fn=None, **more):
    if preexec_fn is not None:
        raise ValueError("preexec_fn is not supported on Windows platforms")
    usual_popen(self, *given, **more)

os.open, os.kill, ctypes.CDLL, subprocess.Popen.__init__ = opened, kill, dll, popen
"""


@pytest.fixture
def without_unix(tmp_path: Path) -> dict[str, str]:
    """An environment in which every Python process lacks what only Unix has."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_LACKING)
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{PYTHONPATH}"}


def run(without_unix: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=without_unix, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert "ENDED" not in done.stderr, done.stderr
    return done


def test_the_test_environment_lacks_unix_calls(without_unix: dict[str, str], tmp_path: Path) -> None:
    program = "import os, signal\ntry:\n    import fcntl\nexcept ImportError:\n    print(hasattr(os, 'fork'))"
    assert run(without_unix, tmp_path, "-c", program).stdout == "False\n"


def test_a_bundle_is_verified_run_and_installed(packed: Path, without_unix: dict[str, str], tmp_path: Path) -> None:
    device = ("-m", "deploytool.device")
    done = run(without_unix, tmp_path, *device, "verify", str(packed))
    assert done.returncode == 0, done.stderr
    assert "ORT CPU" in done.stdout
    assert done.stderr.count("this system sets no limits") == 1
    for _ in range(2):  # also over the installed bundle
        done = run(without_unix, tmp_path, *device, "install", str(packed), "--root", "root")
        assert done.returncode == 0, done.stderr
    image = str(packed / "golden" / "case_0.png")
    assert run(without_unix, tmp_path, *device, "run", "root", image).returncode == 0
    present = {path.name for path in (tmp_path / "root").iterdir()}
    assert present <= {".lock", "bundles", "current", "starts"}


def test_a_bundle_is_pulled_and_served(packed: Path, without_unix: dict[str, str], tmp_path: Path) -> None:
    done = run(without_unix, tmp_path, "-m", "deploytool.device", "pull", str(packed), "--out", "here")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    image = str(packed / "golden" / "case_0.png")
    program = f"import deploytool.device as d\nwith d.open('here') as model:\n    print(model({image!r}).shape)"
    done = run(without_unix, tmp_path, "-c", program)
    assert done.stdout == "(1, 10)\n", done.stderr


def test_changed_files_and_links_are_refused(packed: Path, without_unix: dict[str, str], tmp_path: Path) -> None:
    changed = Path(shutil.copytree(packed, tmp_path / "changed"))
    graph = next(changed.rglob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    assert run(without_unix, tmp_path, "-m", "deploytool.device", "verify", str(changed)).returncode == 8
    linked = Path(shutil.copytree(packed, tmp_path / "linked"))
    graph = next(linked.rglob("*.onnx"))
    graph.unlink()
    graph.symlink_to(next(packed.rglob("*.onnx")))
    assert run(without_unix, tmp_path, "-m", "deploytool.device", "verify", str(linked)).returncode == 8


def test_a_link_is_not_followed(without_unix: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    program = """
from pathlib import Path
from deploytool import errors
from deploytool.host import files
print(files.read(Path("file"), 9))
try:
    files.read(Path("link"), 9)
except errors.Refused as error:
    print(error)
"""
    assert run(without_unix, tmp_path, "-c", program).stdout.startswith("b'x'\nlink cannot be read: ")
