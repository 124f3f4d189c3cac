"""Surroundings that lack what a command takes for granted."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import NoReturn

import pytest

import deploytool
from deploytool.errors import BadInput
from deploytool.transfer import auth
from tests.conftest import ROOT, TINY
from tests.transfer import small

DESK, DEVICE = f"{sys.executable} -m deploytool", f"{sys.executable} -m deploytool.device"
COMMANDS = (
    *(f"{DESK} models", f"{DESK} show RUN -q", f"{DESK} pull BUNDLE --out $T/a -q", f"{DESK} --help"),
    *(f"{DEVICE} pull BUNDLE --out $T/b -q", f"{DEVICE} --help"),
)
SURROUNDINGS = {  # what is around a command: a script, the exit code, and what stands on stderr
    "the working folder is gone": ("mkdir gone; cd gone; rmdir ../gone; COMMAND", 0, ""),
    "stdout is full": ("COMMAND >/dev/full", 120, "deploytool: stdout could not be written: No space left on device\n"),
    "stdout is closed": ("COMMAND >&-", 0, ""),
    "stderr is closed": ("COMMAND 2>&-", 0, ""),
    "all is closed": ("COMMAND <&- >&- 2>&-", 0, ""),
    "nobody reads": ("COMMAND | true; exit ${PIPESTATUS[0]}", None, ""),
    "ASCII": ("export LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 PYTHONIOENCODING=ascii; COMMAND", 0, ""),
    "no columns": ("export COLUMNS=0; COMMAND", 0, ""),
    "one column": ("export COLUMNS=1 LINES=1; COMMAND", 0, ""),
    "odd columns": ("export COLUMNS=² LINES=-1; COMMAND", 0, ""),
    "a dumb terminal": ("export TERM=dumb; COMMAND", 0, ""),
    "little memory": ("ulimit -v 400000; COMMAND", 0, ""),
    "no home": ("unset HOME; COMMAND", 0, ""),
}


def around(script: str, command: str, folder: Path, **places: Path) -> subprocess.CompletedProcess[str]:
    """A command in its surroundings, in a folder of its own."""
    for name, place in places.items():
        command = command.replace(name, shlex.quote(str(place)))
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "T": str(folder)}
    shell = ["bash", "-c", script.replace("COMMAND", command)]
    return subprocess.run(shell, cwd=folder, env=settings, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_odd_surroundings_are_no_trace(name: str, finished: Path, tmp_path: Path) -> None:
    script, code, complaint = SURROUNDINGS[name]
    bundle = small.made(tmp_path / "in", 1)
    for command in COMMANDS:
        done = around(script, command, tmp_path, RUN=finished, BUNDLE=bundle)
        assert done.stderr == complaint, command
        assert done.returncode in ((0, 120) if code is None else (code,)), command


@pytest.mark.parametrize("door", [DESK, DEVICE])
def test_a_working_folder_that_is_gone_is_named(door: str, tmp_path: Path) -> None:
    bundle = small.made(tmp_path / "in", 1)
    script = SURROUNDINGS["the working folder is gone"][0]
    done = around(script, f"{door} pull BUNDLE --out here -q", tmp_path, BUNDLE=bundle)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "deploytool: the working folder: No such file or directory"


@pytest.mark.parametrize("door", [DESK, DEVICE])
def test_a_bundle_is_verified_where_the_working_folder_is_gone(door: str, packed: Path, tmp_path: Path) -> None:
    done = around(SURROUNDINGS["the working folder is gone"][0], f"{door} verify BUNDLE -q", tmp_path, BUNDLE=packed)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "It works here: ORT CPU serves.\n")


@pytest.mark.parametrize("door", [DESK, DEVICE])
def test_a_name_that_is_no_utf_8_is_a_name(door: str, packed: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(packed, tmp_path / "n\udcff"))
    picture = Path(shutil.copy(odd / "golden" / "case_0.png", tmp_path / "p\udcff.png"))
    for command in (f"verify {odd} -q", f"run {odd} {picture}", f"pull {odd} --out {tmp_path}/o\udcff -q"):
        done = around("COMMAND", f"{door} {command} --json", tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert json.loads(done.stdout)["error"] is None
    missing = around("COMMAND", f"{door} verify {tmp_path}/m\udcff", tmp_path)
    assert (missing.returncode, len(missing.stderr.splitlines())) == (8, 2)
    assert "m\\udcff" in missing.stderr


def test_a_run_goes_nowhere_where_a_name_is_no_utf_8(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="whose name is no UTF-8"):
        deploytool.export(TINY, quick=True, out=tmp_path / "n\udcff")


def test_who_has_no_home_has_no_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> NoReturn:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert auth.config_path(None) is None
    assert auth.read_config(None) == auth.Credentials()
    assert auth.config_path("/etc/docker") == Path("/etc/docker/config.json")


READ_ONLY = """
for each in /tmp /var/tmp /dev/shm "$HOME"; do mount --bind "$each" "$each" && mount -o remount,ro,bind "$each"; done
cd /proc; COMMAND
"""


@pytest.mark.parametrize("door", [DESK, DEVICE])
def test_a_machine_that_cannot_be_written_is_one_line(door: str, packed: Path, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("nobody may mount here")
    within = f"unshare -m bash -c {shlex.quote(READ_ONLY)}"
    done = around(within, f"{door} verify {packed}", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("deploytool: TMPDIR: No usable temporary directory found")
    assert len(done.stderr.splitlines()) == 2
    assert around(within, f"{door} --help", tmp_path).returncode == 0


def test_where_no_file_can_be_opened_any_more_a_command_ends_in_one_line() -> None:
    program = """
import errno, os, sys
from deploytool.cli import app
def refuses():
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
os.pipe = refuses
sys.argv = ["deploytool", "models"]
app.main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "deploytool: a file: Too many open files"
    assert "Traceback" not in done.stderr


def test_a_disk_without_room_for_a_run_is_one_line_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")  # as shutil gives it
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 3_000_000))
    with pytest.raises(BadInput, match=r"deep/run has 3.0 MB free, and a run of tiny takes 4\.\d MB"):
        deploytool.export(TINY, quick=True, out=tmp_path / "deep" / "run")
    assert not (tmp_path / "deep").exists()
