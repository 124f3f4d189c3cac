from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploytool.errors import ChildDied, StageFailed
from deploytool.host import process
from deploytool.host.process import run_limited
from tests.conftest import ROOT


def run(program: str, seconds: float = 20.0, gibibytes: float = 1.0) -> str:
    return run_limited([sys.executable, "-c", program], what="the tool", seconds=seconds, gibibytes=gibibytes)


def test_stdout_is_returned() -> None:
    assert run("print('done')") == "done\n"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the tool was killed by SIGSEGV: no error message"),
        ("raise SystemExit('no such node')", "the tool ended with status 1: no such node"),
        ("bytearray(2 << 30)", "the tool ended with status 1: MemoryError"),
    ],
)
def test_the_error_says_how_the_child_ended(program: str, problem: str) -> None:
    with pytest.raises(StageFailed, match=problem):
        run(program)


def test_a_hang_is_stopped() -> None:
    with pytest.raises(StageFailed, match=r"the tool was stopped after 0\.5 s"):
        run("import time; time.sleep(60)", seconds=0.5)


def test_on_line_is_called_with_every_line() -> None:
    lines: list[str] = []
    program = "import time; print('1/2', flush=True); time.sleep(0.1); print('2/2')"
    command = [sys.executable, "-c", program]
    output = run_limited(command, what="the tool", seconds=20.0, gibibytes=math.inf, on_line=lines.append)
    assert lines == ["1/2\n", "2/2\n"]
    assert output == "1/2\n2/2\n"


def test_grandchildren_are_killed_when_the_child_ends() -> None:
    program = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True)"
    begun = time.monotonic()
    pid = int(run(program))
    assert time.monotonic() - begun < 10
    assert has_ended(pid), "the grandchild still runs"


def test_a_grandchild_that_left_the_session_and_keeps_the_pipes_is_not_waited_for() -> None:
    program = "import subprocess; print(subprocess.Popen(['sleep', '30'], start_new_session=True).pid, flush=True)"
    begun = time.monotonic()
    pid = int(run(program))
    os.kill(pid, signal.SIGKILL)
    assert time.monotonic() - begun < 15


def has_ended(pid: int) -> bool:
    """Whether a process ends within a few seconds."""
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("how", ["kill", "end_all"])
def test_the_child_ends_with_its_parent(how: str) -> None:
    parent = f"""
import math, os, sys, threading
from deploytool.host import process
def heard(line):
    print(line, end="", flush=True)
    {"process.end_all()" if how == "end_all" else "os.kill(os.getpid(), 9)"}
program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
process.run_limited([sys.executable, "-c", program], what="it", seconds=50, gibibytes=math.inf, on_line=heard)
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (-9 if how == "kill" else 1)
    assert has_ended(int(done.stdout))
    assert time.monotonic() - begun < 20


PRINT_TASK = "import json, os, sys; print(os.getpid(), *json.loads(sys.stdin.readline()))"


def test_a_child_that_was_started_ahead_gets_its_task() -> None:
    command = (sys.executable, "-c", PRINT_TASK)
    process.start_ahead(command, 1.0)
    begun = process._waiting[command].pid
    process.start_ahead(command, 1.0)
    assert (process.is_waiting(command), process._waiting[command].pid) == (True, begun)
    output = [run_limited(command, what="it", seconds=20, gibibytes=1.0, task=["a", "b"]).split() for _ in range(2)]
    assert output[0] == [str(begun), "a", "b"]
    assert output[1][1:] == ["a", "b"]
    assert output[1][0] != str(begun), "the second had to begin anew"
    assert not process.is_waiting(command)


def test_a_child_that_is_not_needed_is_killed() -> None:
    command = (sys.executable, "-c", PRINT_TASK)
    process.start_ahead(command, 1.0)
    begun = process._waiting[command].pid
    process.stop_ahead(command)
    process.stop_ahead(command)
    assert has_ended(begun)
    assert begun not in process._alive


def test_a_child_that_ends_before_its_task_is_an_error() -> None:
    command = (sys.executable, "-c", "raise SystemExit('no such library')")
    process.start_ahead(command, 1.0)
    process._waiting[command].wait()
    with pytest.raises(StageFailed, match="it ended with status 1: no such library"):
        run_limited(command, what="it", seconds=20, gibibytes=1.0, task=["a" * 100_000])


def test_the_output_in_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MAX_LINES", 20)
    lines: list[str] = []
    command = [sys.executable, "-c", "import os\nfor _ in range(200): os.write(1, b'x' * 100_000 + b'\\n')"]
    output = run_limited(command, what="the tool", seconds=60.0, gibibytes=1.0, on_line=lines.append)
    assert 100_000 < len(output) <= 20 * process._MAX_LINE_LENGTH
    assert max(map(len, lines)) == process._MAX_LINE_LENGTH
    assert output.endswith("x\n")


def test_without_a_limit_on_memory_the_kernel_kills_it_first() -> None:
    command = [sys.executable, "-c", "print(open('/proc/self/oom_score_adj').read())"]
    assert run_limited(command, what="the tool", seconds=20.0, gibibytes=math.inf).split() == ["1000"]


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_the_size_of_files_is_limited(tmp_path: Path, size: int) -> None:
    program = f"opened = open({str(tmp_path / 'file')!r}, 'wb', 0)\nwhile True: opened.write(b'x' * (1 << 19))"
    with pytest.raises(StageFailed, match="File too large"):
        run_limited([sys.executable, "-c", program], what="the tool", seconds=20.0, gibibytes=1.0, max_file_bytes=size)
    assert (tmp_path / "file").stat().st_size == size


def test_the_number_of_processes_is_limited() -> None:
    """The kernel does not apply the limit to root, so the test reads the limit itself."""
    limit = int(run("import resource; print(resource.getrlimit(resource.RLIMIT_NPROC)[1])"))
    assert 0 < limit <= process._tasks() + 2 * process._MORE_TASKS


def test_its_memory_is_not_dumped_to_the_disk() -> None:
    assert run("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))") == "(0, 0)\n"


def test_a_limit_of_the_caller_is_not_raised() -> None:
    """Root could raise it, so that it has to be looked at."""
    parent = f"""
import resource, sys
from deploytool.host.process import run_limited
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 2000))
program = "import resource; print(resource.getrlimit(resource.RLIMIT_FSIZE))"
print(run_limited([sys.executable, "-c", program], what="it", seconds=60, gibibytes=1.0, max_file_bytes={1 << 20}))
"""
    done = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1000, 1000)"


def test_the_memory_limit_applies_to_all_descendants_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_POLL_SECONDS", 0.05)
    child = "import time; held = bytearray(b'x' * (100 << 20)); time.sleep(30)"
    program = "import subprocess, sys, time\n"
    program += f"for _ in range(6): subprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(30)"
    begun = time.monotonic()
    with pytest.raises(ChildDied, match=r"took more than 0\.4 GiB of memory"):
        run(program, seconds=25, gibibytes=0.4)
    assert time.monotonic() - begun < 20


def test_the_timeout_is_kept() -> None:
    begun = time.monotonic()
    with pytest.raises(ChildDied, match=r"the tool was stopped after 1 s"):
        run("import time; time.sleep(60)", seconds=1.0)
    assert 1.0 <= time.monotonic() - begun < 5.0


@pytest.mark.parametrize(
    ("number", "is_death"), [(6, True), (9, True), (11, True), (15, False), (2, False), (1, False)]
)
def test_signals_that_request_an_end_are_not_crashes(number: int, is_death: bool) -> None:
    default_action = f"if {number} != 9: signal.signal({number}, signal.SIG_DFL)"
    with pytest.raises(StageFailed) as caught:
        run(f"import os, signal\n{default_action}\nos.kill(os.getpid(), {number})")
    assert isinstance(caught.value, ChildDied) is is_death
    assert getattr(caught.value, "signal", 0) == (number if is_death else 0)
