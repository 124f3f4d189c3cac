"""Runs a tool in a child process with limits on its memory, files, processes and time."""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import math
import mmap
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from deploytool.errors import ChildDied, ChildFailed, StageFailed
from deploytool.host import disk
from deploytool.serde import Json

try:
    import resource
except ImportError:  # as on Windows
    resource = None  # type: ignore[assignment]

GIBIBYTE = 1 << 30
_UNKNOWN_TASKS = 1 << 40  # if the number of tasks is unknown: in effect no limit
_MORE_TASKS = 1024  # processes and threads in addition to those that run when the child starts
_POLL_SECONDS = 0.5  # between two measurements of the memory of a child and its descendants
_LOG = logging.getLogger(__name__)
_PRCTL = (
    getattr(ctypes.CDLL(None), "prctl", None) if hasattr(os, "fork") else None
)  # loaded before any fork; Linux only
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_REQUESTS_TO_END = [getattr(signal, name, None) for name in ("SIGTERM", "SIGINT", "SIGHUP")]  # these are no crashes
_alive: set[int] = set()  # process groups
_waiting: dict[tuple[str, ...], subprocess.Popen[str]] = {}  # by their commands
_MAX_LINES, _MAX_LINE_LENGTH = 10_000, 10_000


def start_ahead(command: Sequence[str], gibibytes: float, max_file_bytes: int = 0) -> None:
    """Starts a command that imports its libraries and waits for its task, which `run_limited` sends.

    It is killed with this process, or by `stop_ahead` if it is not needed.
    """
    if tuple(command) not in _waiting:
        _waiting[tuple(command)] = _start(command, gibibytes, max_file_bytes)


def is_waiting(command: Sequence[str]) -> bool:
    """Whether the command was started ahead and waits for its task."""
    return tuple(command) in _waiting


def stop_ahead(command: Sequence[str]) -> None:
    """Kills the command if it was started ahead and still waits for its task."""
    process = _waiting.pop(tuple(command), None)
    if process is not None:
        with process:
            _end(process)


def run_limited(
    command: Sequence[str],
    *,
    what: str,
    seconds: float,
    gibibytes: float,
    max_file_bytes: int = 0,
    on_line: Callable[[str], None] | None = None,
    task: Json = None,
    output: Path | None = None,
) -> str:
    """Runs `command` and returns its stdout; `what` is its name in messages.

    `seconds` limits the wall-clock time. `gibibytes` limits the address space of each process, and the resident memory
    of the child and its descendants together; infinity is for CUDA, which reserves more than any machine has. No file
    may grow beyond `max_file_bytes`.

    `on_line` is called from another thread with each line of stdout. `task` is sent to stdin as one line of JSON; a
    command from `start_ahead` keeps the limits that it was started with. `output` is the file that it writes.

    Raises ChildDied if it crashes, hangs or exceeds its memory limit, ResourceExhausted if it cannot write, and
    StageFailed if it ends with another non-zero exit code.
    """
    start = time.monotonic()
    process = _waiting.pop(tuple(command), None) or _start(command, gibibytes, max_file_bytes)
    readers = _read_pipes(process, on_line)  # they close the pipes: to close them here would wait for the readers
    try:
        _send(process, task)
        code = _wait(process, start + seconds, gibibytes, what)
    except subprocess.TimeoutExpired:
        raise ChildDied(f"{what} was stopped after {seconds:g} s", "give it more time, or leave it out") from None
    finally:
        _end(process)
        stdout, stderr = (reader.text() for reader in readers)
        _LOG.debug("%s took %.2f s and ended with %s", what, time.monotonic() - start, process.returncode)
    if code == 0:
        return stdout
    last_line = _last_line(stderr)
    error_number = disk.error_number(last_line) if code > 0 else None
    if error_number and not (error_number == errno.EFBIG and _is_own_limit(max_file_bytes)):
        raise disk.failure(output or f"the output of {what}", error_number)
    problem, remedy = f"{what} {_ending(code)}: {last_line}", "leave it out, or report it"
    if code > 0:
        raise ChildFailed(problem, remedy, last_line)
    if -code in _REQUESTS_TO_END:
        raise StageFailed(problem, remedy)
    raise ChildDied(problem, remedy, -code)


def end_all() -> None:
    """Kills every running child and its descendants, before this process ends."""
    for group in tuple(_alive):
        _kill(group)


def _kill(group: int) -> None:
    """Kills a child and its descendants; without process groups, the child alone."""
    with suppress(OSError):  # it has ended
        if hasattr(os, "killpg"):
            os.killpg(group, signal.SIGKILL)
        else:
            os.kill(group, signal.SIGTERM)


def _start(command: Sequence[str], gibibytes: float, max_file_bytes: int) -> subprocess.Popen[str]:
    """Starts a child in its own process group, so that its descendants can be killed with it."""
    parent, tasks = os.getpid(), _tasks() + _MORE_TASKS

    def limit() -> None:
        if _PRCTL is not None:
            _PRCTL(_DEATH_SIGNAL, signal.SIGKILL)  # the kernel kills it when its parent ends
        if os.getppid() != parent:
            os._exit(1)  # the parent ended before the call
        if gibibytes == math.inf:
            with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123  # after a fork
                score.write("1000")  # the kernel kills this process first if the machine runs out of memory
        else:
            _lower(resource.RLIMIT_AS, int(gibibytes * GIBIBYTE))
        _lower(resource.RLIMIT_CORE, 0)
        _lower(resource.RLIMIT_FSIZE, max_file_bytes)
        _lower(resource.RLIMIT_NPROC, tasks)

    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=limit if _can_limit() else None,
        start_new_session=True,
    )
    _alive.add(process.pid)
    return process


@cache
def _can_limit() -> bool:
    """Whether this system can limit a child; logs a warning once where it cannot."""
    if resource is None:
        _LOG.warning("this system sets no limits on memory, files and processes of a child: only its time is limited")
    return resource is not None


def _lower(limit: int, most: int) -> None:
    """Lowers a limit of this process to `most`, unless it is lower already."""
    most = min([most, *(current for current in resource.getrlimit(limit) if current != resource.RLIM_INFINITY)])
    resource.setrlimit(limit, (most, most))


def _is_own_limit(max_file_bytes: int) -> bool:
    """Whether the limit on the size of a child's files is `max_file_bytes`, not a lower one of the calling shell."""
    if resource is None:
        return False
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return most == resource.RLIM_INFINITY or most > max_file_bytes


def _tasks() -> int:
    """The number of processes and threads on the machine; RLIMIT_NPROC counts all of a user's."""
    try:
        return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return _UNKNOWN_TASKS


def _wait(process: subprocess.Popen[str], deadline: float, gibibytes: float, what: str) -> int:
    """Waits for a child and returns its exit code; measures the memory of its session while it runs."""
    while (left := deadline - time.monotonic()) > 0:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(left, _POLL_SECONDS))
        if gibibytes < math.inf and _resident(process.pid) > gibibytes * GIBIBYTE:
            raise ChildDied(f"{what} took more than {gibibytes:g} GiB of memory", "give it less work, or leave it out")
    raise subprocess.TimeoutExpired(process.args, 0)


def _resident(group: int) -> int:
    """The resident bytes of all processes of a session; 0 where unknown."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            pages += int(fields[21]) if int(fields[3]) == group else 0  # fields 24 (rss) and 6 (session) of proc(5)
    return pages * mmap.PAGESIZE


def _send(process: subprocess.Popen[str], task: Json) -> None:
    """Writes the task to a child's stdin, and closes it."""
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:  # the child may have ended already
        if task is not None:
            pipe.write(json.dumps(task) + "\n")


class _PipeReader(threading.Thread):
    """Reads the lines of a pipe, and keeps the last ones."""

    def __init__(self, pipe: IO[str], on_line: Callable[[str], None] | None) -> None:
        super().__init__(daemon=True)
        self._pipe, self._on_line = pipe, on_line
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self.start()

    def run(self) -> None:
        with self._pipe:
            while line := self._pipe.readline(_MAX_LINE_LENGTH):
                self._lines.append(line)
                _LOG.debug(line.rstrip())
                if self._on_line:
                    self._on_line(line)

    def text(self) -> str:
        """The lines that were read; does not wait for a grandchild that keeps the pipe open."""
        self.join(1.0)
        return "".join(self._lines)


def _read_pipes(
    process: subprocess.Popen[str], on_line: Callable[[str], None] | None
) -> tuple[_PipeReader, _PipeReader]:
    assert process.stdout is not None
    assert process.stderr is not None
    return _PipeReader(process.stdout, on_line), _PipeReader(process.stderr, None)


def _end(process: subprocess.Popen[str]) -> None:
    """Kills the child and its descendants, if they still run."""
    _kill(process.pid)
    process.wait()
    _alive.discard(process.pid)


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no error message"
