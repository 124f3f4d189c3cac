"""Ctrl-C at any moment: exit code 130, no traceback, nothing half-made, and the next run goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from deploytool.pipeline import runner
from deploytool.results import receipt
from tests.conftest import ROOT

TINY = f"{ROOT / 'tests' / 'tiny.py'}:tiny"
ASKED = ("export", TINY, "--input", "3x32x32", "--images", "4", "--seconds", "0.1", "--trt", "--out", "run")
LONGEST_SECONDS = 5.0  # from the signal to the end, on a busy machine


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "deploytool", *ASKED, *more],
        cwd=folder,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left_of(folder: Path) -> list[str]:
    """The processes that still run in a test's own folder for temporary files."""
    mark, found = f"TMPDIR={folder / 'tmp'}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is another user's
            if mark in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def whole(run: Path) -> bool:
    """Whether every folder of a run is a room that its receipt proves, and nothing else is there."""
    rooms = dict(runner.stage_directories(run))
    there = set(run.iterdir()) if run.exists() else set()
    return there - {run / "report.html"} == set(rooms) and all(
        receipt.matches(room, sealed) for room, sealed in rooms.items()
    )


def interrupt(folder: Path, after: float, number: signal.Signals = signal.SIGINT) -> float | None:
    """Interrupts a run; the seconds it took to end, None if it was done before."""
    process = started(folder)
    time.sleep(after)
    if process.poll() is not None:
        process.communicate()
        return None
    sent = time.monotonic()
    process.send_signal(number)
    _, complained = process.communicate(timeout=30)
    took = time.monotonic() - sent
    if process.returncode == 0:  # the signal met it on its way out
        return None
    assert process.returncode == 128 + number, complained
    assert "Traceback" not in complained
    assert whole(folder / "run"), sorted(folder.rglob("*"))
    deadline = time.monotonic() + 2.0  # a process that was killed takes a moment to be gone
    while left_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_of(folder) == []
    assert not list((folder / "tmp").iterdir())
    return took


def test_a_run_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    draw = random.Random(7)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        took = interrupt(tmp_path, draw.uniform(1.0, 6.0), number)
        assert took is None or took < LONGEST_SECONDS
    done = started(tmp_path, "--json")
    document, complained = done.communicate(timeout=120)
    assert done.returncode == 0, complained
    assert json.loads(document)["error"] is None


@pytest.mark.sweep
def test_a_run_is_interrupted_at_twenty_moments(tmp_path: Path) -> None:
    begun, first = time.monotonic(), started(tmp_path)
    first.communicate(timeout=300)
    assert first.returncode == 0
    length, draw = time.monotonic() - begun, random.Random(11)
    taken: list[float] = []
    for turn in range(30):
        folder = tmp_path / str(turn)
        folder.mkdir()
        took = interrupt(folder, draw.uniform(0.2, 0.9 * length))
        done = started(folder)
        _, complained = done.communicate(timeout=300)
        assert done.returncode == 0, complained
        taken += [] if took is None else [took]  # it may have been done before
        if len(taken) == 20:
            break
    print(f"interrupted {len(taken)} times in {length:.1f} s; ended in {min(taken):.2f} to {max(taken):.2f} s")  # noqa: T201
    assert len(taken) == 20
    assert max(taken) < LONGEST_SECONDS, taken


def test_an_interruption_is_a_document_too(tmp_path: Path) -> None:
    process = started(tmp_path, "--json")
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    document, complained = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(document)["error"]["exit_code"] == 130
    assert "deploytool: interrupted" in complained


def test_what_a_library_is_deep_in_ends_all_the_same(tmp_path: Path) -> None:
    program = """
import ctypes, os, signal, threading
from deploytool.cli import interrupt
interrupt.install_handlers(lambda: b"said")
with interrupt.sweeping(lambda: os.rmdir("half")):
    os.mkdir("half")
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    for _ in range(100):
        ctypes.CDLL(None).sleep(30)
"""
    (tmp_path / "tmp").mkdir()
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=settings, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "said")
    assert done.stderr.splitlines()[0] == "deploytool: interrupted"
    assert time.monotonic() - begun < 10
    assert not (tmp_path / "half").exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_a_training_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    for name, level in (("dark", 0), ("light", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (16, 16), (level + number,) * 3).save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "tmp").mkdir()
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    asked = ("train", "mobilenet_v1_025", "--data", "data", "--out", "out", "--epochs", "400", "--batch", "8")
    command = [sys.executable, "-m", "deploytool", *asked]
    with subprocess.Popen(command, cwd=tmp_path, env=settings, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("epoch"):
            pass
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "checkpoint.pt" in names
    assert names <= {"checkpoint.pt", "history.csv", "curve.svg"}
    assert not list((tmp_path / "tmp").iterdir())


def test_it_ends_where_nobody_listens_any_more(tmp_path: Path) -> None:
    program = """
import signal, sys, time
from deploytool.cli import interrupt
interrupt.install_handlers(lambda: b"")
print("ready", flush=True)
time.sleep(60)
"""
    reading, writing = os.pipe()
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=writing, text=True) as process:
        os.close(writing)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.close(reading)
        process.terminate()
        try:
            assert process.wait(20) == 143
        finally:
            process.kill()


@pytest.mark.parametrize(("where", "code", "said"), [("pipe", 3, b"all is said"), ("/dev/full", 120, b"")])
def test_a_command_that_is_done_lets_out_what_it_said_and_ends_at_once(where: str, code: int, said: bytes) -> None:
    """What is registered for the end of the interpreter, as torch's own taking apart is, does not come to pass."""
    program = f"""
import atexit, sys
from deploytool.host import terminal
from deploytool.cli import interrupt
terminal.replace_streams()
interrupt.install_handlers(lambda: b"")
atexit.register(lambda: sys.stderr.write("taken apart"))
sys.stdout.write("all is said")
interrupt.exit_on_signal({3 if where == "pipe" else 0})
"""
    command = [sys.executable, "-c", program]
    with Path("/dev/full").open("wb") as full:
        out = subprocess.PIPE if where == "pipe" else full
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, cwd=ROOT, env=buffered, stdout=out, stderr=subprocess.PIPE, check=False)
    unheard = b"" if code == 3 else b"deploytool: stdout could not be written: No space left on device\n"
    assert (done.returncode, done.stdout or b"", done.stderr) == (code, said, unheard)
