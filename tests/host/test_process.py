from __future__ import annotations

import math
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


def test_what_it_says_comes_back() -> None:
    assert run("print('done')") == "done\n"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the tool was killed by SIGSEGV: no error message"),
        ("raise SystemExit('no such node')", "the tool ended with status 1: no such node"),
        ("bytearray(2 << 30)", "the tool ended with status 1: MemoryError"),
    ],
)
def test_how_it_ended_is_named(program: str, problem: str) -> None:
    with pytest.raises(StageFailed, match=problem):
        run(program)


def test_a_hang_is_stopped() -> None:
    with pytest.raises(StageFailed, match=r"the tool was stopped after 0\.5 s"):
        run("import time; time.sleep(60)", seconds=0.5)


def test_each_line_is_heard_as_it_comes() -> None:
    heard: list[str] = []
    program = "import time; print('1/2', flush=True); time.sleep(0.1); print('2/2')"
    command = [sys.executable, "-c", program]
    said = run_limited(command, what="the tool", seconds=20.0, gibibytes=math.inf, on_line=heard.append)
    assert heard == ["1/2\n", "2/2\n"]
    assert said == "1/2\n2/2\n"


def test_what_it_started_ends_with_it() -> None:
    program = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True)"
    begun = time.monotonic()
    pid = int(run(program))
    assert time.monotonic() - begun < 10
    assert gone(pid), "the grandchild still runs"


def gone(pid: int) -> bool:
    """Whether a process ends within a few seconds."""
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("how", ["kill", "end_all"])
def test_it_goes_with_us_however_we_go(how: str) -> None:
    ours = f"""
import math, os, sys, threading
from deploytool.host import process
def heard(line):
    print(line, end="", flush=True)
    {"process.end_all()" if how == "end_all" else "os.kill(os.getpid(), 9)"}
program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
process.run_limited([sys.executable, "-c", program], what="it", seconds=50, gibibytes=math.inf, on_line=heard)
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", ours], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (-9 if how == "kill" else 1)
    assert gone(int(done.stdout))
    assert time.monotonic() - begun < 20


WAITING = "import json, os, sys; print(os.getpid(), *json.loads(sys.stdin.readline()))"


def test_a_child_that_began_ahead_is_handed_its_task() -> None:
    command = (sys.executable, "-c", WAITING)
    process.start_ahead(command, 1.0)
    begun = process._waiting[command].pid
    process.start_ahead(command, 1.0)
    assert (process.is_waiting(command), process._waiting[command].pid) == (True, begun)
    said = [run_limited(command, what="it", seconds=20, gibibytes=1.0, task=["a", "b"]).split() for _ in range(2)]
    assert said[0] == [str(begun), "a", "b"]
    assert said[1][1:] == ["a", "b"]
    assert said[1][0] != str(begun), "the second had to begin anew"
    assert not process.is_waiting(command)


def test_a_child_that_nobody_came_to_need_is_recalled() -> None:
    command = (sys.executable, "-c", WAITING)
    process.start_ahead(command, 1.0)
    begun = process._waiting[command].pid
    process.stop_ahead(command)
    process.stop_ahead(command)
    assert gone(begun)
    assert begun not in process._alive


def test_a_child_that_died_before_its_task_came_fails_like_any_other() -> None:
    command = (sys.executable, "-c", "raise SystemExit('no such library')")
    process.start_ahead(command, 1.0)
    process._waiting[command].wait()
    with pytest.raises(StageFailed, match="it ended with status 1: no such library"):
        run_limited(command, what="it", seconds=20, gibibytes=1.0, task=["a" * 100_000])


def test_a_flood_of_words_does_not_fill_our_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MAX_LINES", 20)
    heard: list[str] = []
    command = [sys.executable, "-c", "import os\nfor _ in range(200): os.write(1, b'x' * 100_000 + b'\\n')"]
    said = run_limited(command, what="the tool", seconds=60.0, gibibytes=1.0, on_line=heard.append)
    assert 100_000 < len(said) <= 20 * process._MAX_LINE_LENGTH
    assert max(map(len, heard)) == process._MAX_LINE_LENGTH
    assert said.endswith("x\n")


def test_without_a_limit_on_memory_it_is_the_first_to_go() -> None:
    command = [sys.executable, "-c", "print(open('/proc/self/oom_score_adj').read())"]
    assert run_limited(command, what="the tool", seconds=20.0, gibibytes=math.inf).split() == ["1000"]


@pytest.mark.parametrize("writes", [0, 1 << 20])
def test_no_file_grows_beyond_what_it_was_said_to_write(tmp_path: Path, writes: int) -> None:
    program = f"opened = open({str(tmp_path / 'file')!r}, 'wb', 0)\nwhile True: opened.write(b'x' * (1 << 19))"
    with pytest.raises(StageFailed, match="File too large"):
        run_limited(
            [sys.executable, "-c", program], what="the tool", seconds=20.0, gibibytes=1.0, max_file_bytes=writes
        )
    assert (tmp_path / "file").stat().st_size == writes


def test_it_may_not_start_processes_without_end() -> None:
    """The kernel lets root have as many as it likes, so it is the limit itself that is looked at."""
    most = int(run("import resource; print(resource.getrlimit(resource.RLIMIT_NPROC)[1])"))
    assert 0 < most <= process._tasks() + 2 * process._MORE_TASKS


def test_its_memory_is_not_dumped_to_the_disk() -> None:
    assert run("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))") == "(0, 0)\n"


def test_a_limit_of_the_caller_is_not_raised() -> None:
    """Root could raise it, so that it has to be looked at."""
    ours = f"""
import resource, sys
from deploytool.host.process import run_limited
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 2000))
program = "import resource; print(resource.getrlimit(resource.RLIMIT_FSIZE))"
print(run_limited([sys.executable, "-c", program], what="it", seconds=60, gibibytes=1.0, max_file_bytes={1 << 20}))
"""
    done = subprocess.run([sys.executable, "-c", ours], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1000, 1000)"


def test_many_processes_do_not_take_together_what_one_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_POLL_SECONDS", 0.05)
    one = "import time; held = bytearray(b'x' * (100 << 20)); time.sleep(30)"
    program = "import subprocess, sys, time\n"
    program += f"for _ in range(6): subprocess.Popen([sys.executable, '-c', {one!r}])\ntime.sleep(30)"
    begun = time.monotonic()
    with pytest.raises(ChildDied, match=r"took more than 0\.4 GiB of memory"):
        run(program, seconds=25, gibibytes=0.4)
    assert time.monotonic() - begun < 20


def test_its_time_is_up_when_it_is_up() -> None:
    begun = time.monotonic()
    with pytest.raises(ChildDied, match=r"the tool was stopped after 1 s"):
        run("import time; time.sleep(60)", seconds=1.0)
    assert 1.0 <= time.monotonic() - begun < 5.0


@pytest.mark.parametrize(("number", "died"), [(6, True), (9, True), (11, True), (15, False), (2, False), (1, False)])
def test_only_what_it_did_itself_counts_as_its_death(number: int, died: bool) -> None:
    usual = f"if {number} != 9: signal.signal({number}, signal.SIG_DFL)"
    with pytest.raises(StageFailed) as caught:
        run(f"import os, signal\n{usual}\nos.kill(os.getpid(), {number})")
    assert isinstance(caught.value, ChildDied) is died
    assert getattr(caught.value, "signal", 0) == (number if died else 0)
