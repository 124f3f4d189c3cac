"""Runs a small sample of the campaign of kills and errors, and checks that the campaign detects problems."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.reliability import faults, reading
from tests.reliability.injecting import CallCounter, Fault
from tests.transfer import small


@pytest.fixture
def two_bundles(tmp_path: Path) -> list[str]:
    return [str(small.make_bundle(tmp_path / f"bundle{seed}", seed, 20_000)) for seed in (1, 2)]


def test_killed_and_failed_commands_leave_nothing_incomplete(two_bundles: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.reliability.faults", "--bundle", *two_bundles]
    command += ["--kills", "3", "--errors", "12", "--kernel", "0", "--only", "pull of an archive,push to an archive"]
    settings = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "0 wrong" in process.stdout.splitlines()[-1]
    assert "error: exit 2" in process.stdout
    assert "kill: killed" in process.stdout


def test_only_the_selected_call_fails() -> None:
    counter = CallCounter(Fault(1, errno.EIO))
    counter.record("open", "a")
    with pytest.raises(OSError, match="'b'") as raised:
        counter.record("open", Path("b"))
    counter.record("write")
    assert (raised.value.errno, counter.kinds) == (errno.EIO, ["open", "open", "write"])


def test_a_full_disk_stays_full() -> None:
    counter = CallCounter(Fault(0, errno.ENOSPC, lasting=True))
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            counter.record("write")
    counter.record("unlink")


def test_calls_of_every_kind_are_counted(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
import os, subprocess, tempfile
from tests.reliability import injecting
from deploytool.host import files
from deploytool.host import swap
counter = injecting.CallCounter()
injecting.install(counter)
home = Path({str(tmp_path)!r})
files.publish(home / "one", b"content")
(home / "folder").mkdir()
(home / "folder").rename(home / "other")
(home / "folder").mkdir()
swap.link(home / "one", home / "two")
swap.exchange(home / "folder", home / "other")
list(home.glob("*"))
with (home / "text").open("a+", encoding="utf-8") as file:
    file.write("a line\\n")
    file.seek(0)
    assert file.read() == "a line\\n"
(home / "text").unlink()
(home / "other").rmdir()
assert subprocess.run(["cat"], input=b"x", capture_output=True).stdout == b"x"
print(*sorted(set(counter.kinds)))
"""
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = "exchange fsync link mkdir open pipe rename replace rmdir scandir stat unlink write"
    assert set(expected.split()) <= set(process.stdout.split())


@pytest.mark.parametrize(
    ("output", "code", "problem"),
    [
        ("Traceback (most recent call last):\nOSError", 1, "a traceback"),
        ("deploytool: one\n  → do\ndeploytool: two\n  → do\n", 2, "2 problems"),
        ("deploytool: one\n", 2, "no remedy"),
        ("deploytool: one\n  → do\n", 1, "exit 1"),
        ("deploytool: one\n  → do\n", -6, "exit -6"),
    ],
)
def test_a_malformed_error_message_is_detected(output: str, code: int, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        faults.check_error_message(output, code)
    faults.check_error_message("model.onnx: 1.0 MB\ndeploytool: one\n  → do\n", 2)


def _truncate(folder: Path) -> None:
    (folder / small.ORIN).write_bytes(b"half")


def _remove(folder: Path) -> None:
    (folder / small.ORIN).unlink()


def _add(folder: Path) -> None:
    (folder / ".manifest.json.making").touch()


@pytest.mark.parametrize("corrupt", [_truncate, _remove, _add])
def test_an_incomplete_bundle_is_detected(
    two_bundles: list[str], tmp_path: Path, corrupt: Callable[[Path], None]
) -> None:
    folder = Path(two_bundles[0])
    digest = reading.bundle(folder)
    root = tmp_path / "root"
    shutil.copytree(folder, root / "bundles" / digest)
    (root / "current").write_text(f'{{"current": "{digest}", "previous": null}}')
    assert reading.root(root) == digest
    for bundle in (folder, root / "bundles" / digest):
        corrupt(bundle)
    with pytest.raises(AssertionError):
        reading.bundle(folder)
    with pytest.raises(AssertionError):
        reading.root(root)


def test_a_corrupt_archive_is_detected(two_bundles: list[str], tmp_path: Path) -> None:
    from deploytool.bundle.manifest import read_manifest
    from deploytool.transfer import oci_archive

    path, folder = tmp_path / "x.tar", Path(two_bundles[0])
    oci_archive.write(folder, read_manifest(folder), path)
    assert reading.archive(path) == reading.bundle(folder)
    raw = bytearray(path.read_bytes())
    at = raw.index((folder / small.ORIN).read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    with pytest.raises(AssertionError):
        reading.archive(path)
