"""A small sample of the campaign of kills and errors, and that it sees what it is to see."""

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
from tests.reliability.injecting import Fault, Gate
from tests.transfer import small


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [str(small.made(tmp_path / f"bundle{seed}", seed, 20_000)) for seed in (1, 2)]


def test_what_is_killed_or_fails_leaves_no_half_and_no_litter(two: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.reliability.faults", "--bundle", *two]
    command += ["--kills", "3", "--errors", "12", "--kernel", "0", "--only", "pull of an archive,push to an archive"]
    settings = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout.splitlines()[-1]
    assert "error: exit 2" in done.stdout
    assert "kill: killed" in done.stdout


def test_the_call_that_is_meant_fails_and_no_other() -> None:
    gate = Gate(Fault(1, errno.EIO))
    gate.passed("open", "a")
    with pytest.raises(OSError, match="'b'") as raised:
        gate.passed("open", Path("b"))
    gate.passed("write")
    assert (raised.value.errno, gate.kinds) == (errno.EIO, ["open", "open", "write"])


def test_a_disk_that_is_full_stays_so() -> None:
    gate = Gate(Fault(0, errno.ENOSPC, lasting=True))
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            gate.passed("write")
    gate.passed("unlink")


def test_calls_of_every_kind_go_through_the_gate(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
import os, subprocess, tempfile
from tests.reliability import injecting
from deploytool.host import files
from deploytool.host import swap
gate = injecting.Gate()
injecting.install(gate)
home = Path({str(tmp_path)!r})
files.publish(home / "one", b"content")
(home / "folder").mkdir()
(home / "folder").rename(home / "other")
(home / "folder").mkdir()
swap.link(home / "one", home / "two")
swap.exchange(home / "folder", home / "other")
list(home.glob("*"))
with (home / "text").open("a+", encoding="utf-8") as opened:
    opened.write("a line\\n")
    opened.seek(0)
    assert opened.read() == "a line\\n"
(home / "text").unlink()
(home / "other").rmdir()
assert subprocess.run(["cat"], input=b"x", capture_output=True).stdout == b"x"
print(*sorted(set(gate.kinds)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = "exchange fsync link mkdir open pipe rename replace rmdir scandir stat unlink write"
    assert set(wanted.split()) <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("said", "code", "problem"),
    [
        ("Traceback (most recent call last):\nOSError", 1, "a traceback"),
        ("deploytool: one\n  → do\ndeploytool: two\n  → do\n", 2, "2 problems"),
        ("deploytool: one\n", 2, "no remedy"),
        ("deploytool: one\n  → do\n", 1, "exit 1"),
        ("deploytool: one\n  → do\n", -6, "exit -6"),
    ],
)
def test_what_is_no_clean_failure_is_noticed(said: str, code: int, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        faults.one_line(said, code)
    faults.one_line("model.onnx: 1.0 MB\ndeploytool: one\n  → do\n", 2)


def _cut(folder: Path) -> None:
    (folder / small.ORIN).write_bytes(b"half")


def _gone(folder: Path) -> None:
    (folder / small.ORIN).unlink()


def _more(folder: Path) -> None:
    (folder / ".manifest.json.making").touch()


@pytest.mark.parametrize("spoil", [_cut, _gone, _more])
def test_half_a_bundle_is_noticed(two: list[str], tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = Path(two[0])
    digest = reading.bundle(folder)
    root = tmp_path / "root"
    shutil.copytree(folder, root / "bundles" / digest)
    (root / "current").write_text(f'{{"current": "{digest}", "previous": null}}')
    assert reading.root(root) == digest
    for place in (folder, root / "bundles" / digest):
        spoil(place)
    with pytest.raises(AssertionError):
        reading.bundle(folder)
    with pytest.raises(AssertionError):
        reading.root(root)


def test_half_an_archive_is_noticed(two: list[str], tmp_path: Path) -> None:
    from deploytool.bundle.manifest import read_manifest
    from deploytool.transfer import oci_archive

    path, folder = tmp_path / "x.tar", Path(two[0])
    oci_archive.write(folder, read_manifest(folder), path)
    assert reading.archive(path) == reading.bundle(folder)
    raw = bytearray(path.read_bytes())
    at = raw.index((folder / small.ORIN).read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    with pytest.raises(AssertionError):
        reading.archive(path)
