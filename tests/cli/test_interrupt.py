"""Ctrl-C and SIGTERM at any time: exit code, no traceback, no unfinished files, and the next run continues."""

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
ARGUMENTS = ("export", TINY, "--input", "3x32x32", "--images", "4", "--seconds", "0.1", "--trt", "--out", "run")
MAX_SECONDS = 5.0  # from the signal to the exit, on a busy machine


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Starts an export in a folder."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "deploytool", *ARGUMENTS, *options],
        cwd=folder,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def running_processes(folder: Path) -> list[str]:
    """The command lines of processes that still use the folder for temporary files of a test."""
    variable, processes = f"TMPDIR={folder / 'tmp'}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended, or belongs to another user
            if variable in (entry / "environ").read_bytes():
                processes.append((entry / "cmdline").read_text().replace("\0", " "))
    return processes


def is_consistent(run: Path) -> bool:
    """Whether a run has only stage directories that match their receipts, and its page."""
    stages = dict(runner.stage_directories(run))
    entries = set(run.iterdir()) if run.exists() else set()
    return entries - {run / "report.html"} == set(stages) and all(
        receipt.matches(folder, entry) for folder, entry in stages.items()
    )


def interrupt(folder: Path, after: float, number: signal.Signals = signal.SIGINT) -> float | None:
    """Interrupts an export after some seconds; returns the seconds until it ended, None if it had finished before."""
    process = start(folder)
    time.sleep(after)
    if process.poll() is not None:
        process.communicate()
        return None
    signal_time = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    seconds = time.monotonic() - signal_time
    if process.returncode == 0:  # the signal came during the exit
        return None
    assert process.returncode == 128 + number, stderr
    assert "Traceback" not in stderr
    assert is_consistent(folder / "run"), sorted(folder.rglob("*"))
    deadline = time.monotonic() + 2.0  # a killed process takes a moment to disappear
    while running_processes(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running_processes(folder) == []
    assert not list((folder / "tmp").iterdir())
    return seconds


def test_an_interrupted_export_continues(tmp_path: Path) -> None:
    rng = random.Random(7)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        seconds = interrupt(tmp_path, rng.uniform(1.0, 6.0), number)
        assert seconds is None or seconds < MAX_SECONDS
    done = start(tmp_path, "--json")
    document, stderr = done.communicate(timeout=120)
    assert done.returncode == 0, stderr
    assert json.loads(document)["error"] is None


@pytest.mark.sweep
def test_an_export_is_interrupted_at_twenty_moments(tmp_path: Path) -> None:
    begin, first = time.monotonic(), start(tmp_path)
    first.communicate(timeout=300)
    assert first.returncode == 0
    duration, rng = time.monotonic() - begin, random.Random(11)
    times: list[float] = []
    for turn in range(30):
        folder = tmp_path / str(turn)
        folder.mkdir()
        seconds = interrupt(folder, rng.uniform(0.2, 0.9 * duration))
        done = start(folder)
        _, stderr = done.communicate(timeout=300)
        assert done.returncode == 0, stderr
        times += [] if seconds is None else [seconds]  # None if it had finished before
        if len(times) == 20:
            break
    print(f"interrupted {len(times)} times in {duration:.1f} s; ended in {min(times):.2f} to {max(times):.2f} s")  # noqa: T201
    assert len(times) == 20
    assert max(times) < MAX_SECONDS, times


def test_an_interruption_is_a_json_document_too(tmp_path: Path) -> None:
    process = start(tmp_path, "--json")
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    document, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(document)["error"]["exit_code"] == 130
    assert "deploytool: interrupted" in stderr


def test_a_blocking_library_call_is_interrupted(tmp_path: Path) -> None:
    program = """
import ctypes, os, signal, threading
from deploytool.cli import interrupt
interrupt.install_handlers(lambda: b"output")
with interrupt.sweeping(lambda: os.rmdir("half")):
    os.mkdir("half")
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    for _ in range(100):
        ctypes.CDLL(None).sleep(30)
"""
    (tmp_path / "tmp").mkdir()
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=settings, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "output")
    assert done.stderr.splitlines()[0] == "deploytool: interrupted"
    assert time.monotonic() - begin < 10
    assert not (tmp_path / "half").exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_an_interrupted_training_keeps_its_checkpoint(tmp_path: Path) -> None:
    for name, level in (("dark", 0), ("light", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (16, 16), (level + number,) * 3).save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "tmp").mkdir()
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    arguments = ("train", "mobilenet_v1_025", "--data", "data", "--out", "out", "--epochs", "400", "--batch", "8")
    command = [sys.executable, "-m", "deploytool", *arguments]
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


def test_it_ends_if_stderr_is_closed(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("target", "code", "output"), [("pipe", 3, b"all output"), ("/dev/full", 120, b"")])
def test_exit_flushes_stdout_and_skips_the_shutdown(target: str, code: int, output: bytes) -> None:
    """Functions that are registered with atexit, such as torch's, are not called."""
    program = f"""
import atexit, sys
from deploytool.host import terminal
from deploytool.cli import interrupt
terminal.replace_streams()
interrupt.install_handlers(lambda: b"")
atexit.register(lambda: sys.stderr.write("shutdown"))
sys.stdout.write("all output")
interrupt.exit_on_signal({3 if target == "pipe" else 0})
"""
    command = [sys.executable, "-c", program]
    with Path("/dev/full").open("wb") as full:
        out = subprocess.PIPE if target == "pipe" else full
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, cwd=ROOT, env=buffered, stdout=out, stderr=subprocess.PIPE, check=False)
    message = b"" if code == 3 else b"deploytool: stdout could not be written: No space left on device\n"
    assert (done.returncode, done.stdout or b"", done.stderr) == (code, output, message)
