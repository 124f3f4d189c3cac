"""Surroundings that lack what a command takes for granted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

import deploytool
from deploytool.errors import BadInput
from tests.conftest import ROOT, TINY


def test_a_command_without_stdout_ends_without_a_trace() -> None:
    command = f"{sys.executable} -m deploytool models >&-"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_where_no_file_can_be_opened_any_more_a_command_ends_in_one_line() -> None:
    program = """
import errno, os, sys
from deploytool import cli
def refuses():
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
os.pipe = refuses
sys.argv = ["deploytool", "models"]
cli.main()
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
    with pytest.raises(BadInput, match=r"deep/run has 3 MB free, and a run of tiny takes 4\.\d MB"):
        deploytool.export(TINY, quick=True, out=tmp_path / "deep" / "run")
    assert not (tmp_path / "deep").exists()
