"""Commands in unusual environments: closed streams, no home, no working folder, little memory, a full disk."""

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
from tests.conftest import PYTHONPATH, ROOT, TINY
from tests.transfer import small

HOST, DEVICE = f"{sys.executable} -m deploytool", f"{sys.executable} -m deploytool.device"
COMMANDS = (
    *(f"{HOST} models", f"{HOST} show RUN -q", f"{HOST} pull BUNDLE --out $T/a -q", f"{HOST} --help"),
    *(f"{DEVICE} pull BUNDLE --out $T/b -q", f"{DEVICE} --help"),
)
ENVIRONMENTS = {  # name: shell script, exit code, and stderr
    "the working folder is deleted": ("mkdir gone; cd gone; rmdir ../gone; COMMAND", 0, ""),
    "stdout is full": ("COMMAND >/dev/full", 120, "deploytool: stdout could not be written: No space left on device\n"),
    "stdout is closed": ("COMMAND >&-", 0, ""),
    "stderr is closed": ("COMMAND 2>&-", 0, ""),
    "all streams are closed": ("COMMAND <&- >&- 2>&-", 0, ""),
    "stdout is a closed pipe": ("COMMAND | true; exit ${PIPESTATUS[0]}", None, ""),
    "ASCII": ("export LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 PYTHONIOENCODING=ascii; COMMAND", 0, ""),
    "zero columns": ("export COLUMNS=0; COMMAND", 0, ""),
    "one column": ("export COLUMNS=1 LINES=1; COMMAND", 0, ""),
    "invalid columns": ("export COLUMNS=² LINES=-1; COMMAND", 0, ""),
    "a dumb terminal": ("export TERM=dumb; COMMAND", 0, ""),
    "little memory": ("ulimit -v 400000; COMMAND", 0, ""),
    "no home": ("unset HOME; COMMAND", 0, ""),
}


def run_in(script: str, command: str, folder: Path, **paths: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command inside a shell script, in a folder; `paths` replace words of the command."""
    for name, path in paths.items():
        command = command.replace(name, shlex.quote(str(path)))
    settings = {**os.environ, "PYTHONPATH": PYTHONPATH, "T": str(folder)}
    shell = ["bash", "-c", script.replace("COMMAND", command)]
    return subprocess.run(shell, cwd=folder, env=settings, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_commands_work_in_unusual_environments(name: str, finished: Path, tmp_path: Path) -> None:
    script, code, stderr = ENVIRONMENTS[name]
    bundle = small.make_bundle(tmp_path / "in", 1)
    for command in COMMANDS:
        done = run_in(script, command, tmp_path, RUN=finished, BUNDLE=bundle)
        assert done.stderr == stderr, command
        assert done.returncode in ((0, 120) if code is None else (code,)), command


@pytest.mark.parametrize("program", [HOST, DEVICE])
def test_a_deleted_working_folder_is_named_in_the_error(program: str, tmp_path: Path) -> None:
    bundle = small.make_bundle(tmp_path / "in", 1)
    script = ENVIRONMENTS["the working folder is deleted"][0]
    done = run_in(script, f"{program} pull BUNDLE --out here -q", tmp_path, BUNDLE=bundle)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "deploytool: the working folder: No such file or directory"


@pytest.mark.parametrize("program", [HOST, DEVICE])
def test_verify_works_in_a_deleted_working_folder(program: str, packed: Path, tmp_path: Path) -> None:
    done = run_in(
        ENVIRONMENTS["the working folder is deleted"][0], f"{program} verify BUNDLE -q", tmp_path, BUNDLE=packed
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "It works here: ORT CPU serves.\n")


@pytest.mark.parametrize("program", [HOST, DEVICE])
def test_names_that_are_not_utf_8_are_accepted(program: str, packed: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(packed, tmp_path / "n\udcff"))
    picture = Path(shutil.copy(odd / "golden" / "case_0.png", tmp_path / "p\udcff.png"))
    for command in (f"verify {odd} -q", f"run {odd} {picture}", f"pull {odd} --out {tmp_path}/o\udcff -q"):
        done = run_in("COMMAND", f"{program} {command} --json", tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert json.loads(done.stdout)["error"] is None
    missing = run_in("COMMAND", f"{program} verify {tmp_path}/m\udcff", tmp_path)
    assert (missing.returncode, len(missing.stderr.splitlines())) == (8, 2)
    assert "m\\udcff" in missing.stderr


def test_export_refuses_a_folder_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="its name is not UTF-8"):
        deploytool.export(TINY, quick=True, out=tmp_path / "n\udcff")


def test_without_a_home_there_are_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown_user(_: int) -> NoReturn:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown_user)
    assert auth.config_path(None) is None
    assert auth.read_config(None) == auth.Credentials()
    assert auth.config_path("/etc/docker") == Path("/etc/docker/config.json")


READ_ONLY = """
for folder in /tmp /var/tmp /dev/shm "$HOME"; do
    mount --bind "$folder" "$folder" && mount -o remount,ro,bind "$folder"
done
cd /proc; COMMAND
"""


@pytest.mark.parametrize("program", [HOST, DEVICE])
def test_a_read_only_machine_is_reported_in_one_line(program: str, packed: Path, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount is not permitted on this machine")
    shell = f"unshare -m bash -c {shlex.quote(READ_ONLY)}"
    done = run_in(shell, f"{program} verify {packed}", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("deploytool: TMPDIR: No usable temporary directory found")
    assert len(done.stderr.splitlines()) == 2
    assert run_in(shell, f"{program} --help", tmp_path).returncode == 0


def test_too_many_open_files_are_reported_in_one_line() -> None:
    program = """
import errno, os, sys
from deploytool.cli import app
def fail():
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
os.pipe = fail
sys.argv = ["deploytool", "models"]
app.main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "deploytool: a file: Too many open files"
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_reported_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # as shutil.disk_usage returns it
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 3_000_000))
    with pytest.raises(BadInput, match=r"deep/run has 3.0 MB free, and a run of tiny takes 4\.\d MB"):
        deploytool.export(TINY, quick=True, out=tmp_path / "deep" / "run")
    assert not (tmp_path / "deep").exists()
