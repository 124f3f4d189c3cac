"""Runs a tool we do not trust with our memory, disk or time: in a child process with limits on all of them."""

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
_UNTOLD = 1 << 40  # tasks, where nobody tells how many there are: no limit that counts
_MORE_TASKS = 1024  # processes and threads beyond those that the machine has when the child begins
_LOOK_SECONDS = 0.5  # between two looks at the memory of a child and all that it started
_LOG = logging.getLogger(__name__)
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None) if hasattr(os, "fork") else None  # loaded before any fork; Linux's
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_ASKED = [
    getattr(signal, name, None) for name in ("SIGTERM", "SIGINT", "SIGHUP")
]  # somebody asked it to end: it did not die of its work
_alive: set[int] = set()  # process groups
_waiting: dict[tuple[str, ...], subprocess.Popen[str]] = {}  # by their commands
_MOST_LINES, _LONGEST_LINE = 10_000, 10_000


def start_ahead(command: Sequence[str], gibibytes: float, writes: int = 0) -> None:
    """Begins a command that will wait for its task, so that `run_limited` finds it with its imports done.

    It is killed with this process, and by `stop_ahead` if nobody came to need it.
    """
    if tuple(command) not in _waiting:
        _waiting[tuple(command)] = _started(command, gibibytes, writes)


def is_waiting(command: Sequence[str]) -> bool:
    """Whether the command was begun ahead and waits for its task."""
    return tuple(command) in _waiting


def stop_ahead(command: Sequence[str]) -> None:
    """Ends the command if it was begun ahead and still waits for its task."""
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
    writes: int = 0,
    heard: Callable[[str], None] | None = None,
    task: Json = None,
    makes: Path | None = None,
) -> str:
    """What `command` wrote on stdout; `what` is its name in messages.

    The limits are wall-clock seconds and gibibytes, of address space for each process and of memory for all that the
    child starts; infinity is none: CUDA reserves more than any machine has. No file may grow beyond `writes` bytes.

    `heard` is called with each line as it comes, from another thread. `task` goes to its stdin as
    one line of JSON; a command that was begun `start_ahead` is handed it under the limits that it was begun with.
    `makes` is the file that it writes.
    Raises ChildDied if it crashes, hangs or takes too much memory, NoRoom if it cannot write, StageFailed if it ends
    with another non-zero status.
    """
    begun = time.monotonic()
    with _waiting.pop(tuple(command), None) or _started(command, gibibytes, writes) as process:
        listening = _listen(process, heard)
        try:
            _hand(process, task)
            code = _waited(process, begun + seconds, gibibytes, what)
        except subprocess.TimeoutExpired:
            raise ChildDied(f"{what} was stopped after {seconds:g} s", "give it more time, or leave it out") from None
        finally:
            _end(process)
            said, complained = (each.ended() for each in listening)
            _LOG.debug("%s took %.2f s and ended with %s", what, time.monotonic() - begun, process.returncode)
    if code == 0:
        return said
    full = disk.error_number(_last_line(complained)) if code > 0 else None
    if full and not (full == errno.EFBIG and _own_limit(writes)):
        raise disk.failure(makes or f"what {what} makes", full)
    why = _last_line(complained)
    problem, remedy = f"{what} {_ending(code)}: {why}", "leave it out, or report it"
    if code > 0:
        raise ChildFailed(problem, remedy, why)
    if -code in _ASKED:
        raise StageFailed(problem, remedy)
    raise ChildDied(problem, remedy, -code)


def end_all() -> None:
    """Kills every child that runs, and whatever it started: for whoever is about to end this process."""
    for group in tuple(_alive):
        _kill(group)


def _kill(group: int) -> None:
    """Ends a child and whatever it started; where there are no process groups, the child alone."""
    with suppress(OSError):  # it has ended
        if hasattr(os, "killpg"):
            os.killpg(group, signal.SIGKILL)
        else:
            os.kill(group, signal.SIGTERM)


def _started(command: Sequence[str], gibibytes: float, writes: int) -> subprocess.Popen[str]:
    """In a process group of its own, so that what it starts ends with it."""
    parent, tasks = os.getpid(), _tasks() + _MORE_TASKS

    def limit() -> None:
        if _PRCTL is not None:
            _PRCTL(_DEATH_SIGNAL, signal.SIGKILL)  # it goes with us, however we go
        if os.getppid() != parent:
            os._exit(1)  # we went before it could ask for that
        if gibibytes == math.inf:
            with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123  # after a fork
                score.write("1000")  # if the machine itself runs out of memory, this one goes first
        else:
            _lower(resource.RLIMIT_AS, int(gibibytes * GIBIBYTE))
        _lower(resource.RLIMIT_CORE, 0)
        _lower(resource.RLIMIT_FSIZE, writes)
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
    """Whether a child can be given limits here; says once where it cannot."""
    if resource is None:
        _LOG.warning("this system sets no limits on memory, files and processes of a child: only its time is limited")
    return resource is not None


def _lower(limit: int, most: int) -> None:
    """Sets a limit of this process, unless it is lower already."""
    most = min([most, *(each for each in resource.getrlimit(limit) if each != resource.RLIM_INFINITY)])
    resource.setrlimit(limit, (most, most))


def _own_limit(writes: int) -> bool:
    """Whether the limit on a child's files is ours, and none that whoever called us had set."""
    if resource is None:
        return False
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return most == resource.RLIM_INFINITY or most > writes


def _tasks() -> int:
    """How many processes and threads the machine has; what a child may start is counted with those of its user."""
    try:
        return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return _UNTOLD


def _waited(process: subprocess.Popen[str], until: float, gibibytes: float, what: str) -> int:
    """The status with which a child ends; looks now and then at what it and all that it started hold in memory."""
    while (left := until - time.monotonic()) > 0:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(left, _LOOK_SECONDS))
        if _resident(process.pid) > gibibytes * GIBIBYTE:
            raise ChildDied(f"{what} took more than {gibibytes:g} GiB of memory", "give it less work, or leave it out")
    raise subprocess.TimeoutExpired(process.args, 0)


def _resident(group: int) -> int:
    """The bytes that a process and those of its session hold in memory; 0 where nobody tells."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            pages += int(fields[21]) if int(fields[3]) == group else 0  # the resident set, and the session
    return pages * mmap.PAGESIZE


def _hand(process: subprocess.Popen[str], task: Json) -> None:
    """Gives a child its task, and nothing else to read."""
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:  # it may have ended before it came to read
        if task is not None:
            pipe.write(json.dumps(task) + "\n")


class _Ear(threading.Thread):
    """Keeps what a pipe says, the end of it where it says too much."""

    def __init__(self, pipe: IO[str], heard: Callable[[str], None] | None) -> None:
        super().__init__(daemon=True)
        self._pipe, self._heard = pipe, heard
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        self.start()

    def run(self) -> None:
        while line := self._pipe.readline(_LONGEST_LINE):
            self._lines.append(line)
            _LOG.debug(line.rstrip())
            if self._heard:
                self._heard(line)

    def ended(self) -> str:
        """All that was said; a grandchild that keeps the pipe open is not waited for."""
        self.join(1.0)
        return "".join(self._lines)


def _listen(process: subprocess.Popen[str], heard: Callable[[str], None] | None) -> tuple[_Ear, _Ear]:
    assert process.stdout is not None
    assert process.stderr is not None
    return _Ear(process.stdout, heard), _Ear(process.stderr, None)


def _end(process: subprocess.Popen[str]) -> None:
    """Kills the child and whatever it started, if they still run."""
    _kill(process.pid)
    process.wait()
    _alive.discard(process.pid)


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
