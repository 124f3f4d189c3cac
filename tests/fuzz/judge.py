"""Calls commands in this process as a user would, and reports what is wrong with their results."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploytool.cli import app, console
from deploytool.cli.console import OutputMode
from deploytool.device import __main__ as back
from deploytool.device import commands, probe, serve, worker
from deploytool.errors import ChildDied, StageFailed
from deploytool.host import process

HOST_CLI, DEVICE_CLI = "deploytool", "deploytool.device"
LIMIT_S = 90.0  # time limit of a command in seconds
CHILD_S, CHILD_GIB = 8.0, 3.0  # limits of a child process (in production: 120 s and 8 GiB)
REFUSED = (2, 8, 9)  # bad input, refused, unreachable
_MIB = 1 << 20
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\n\xa0-\u200a\u2010-\u2027\u2030-\ud7ff\ue000-\ufefe\uff00-\U0010ffff]")


class TimedOut(BaseException):
    """A command exceeded its time limit; a BaseException, so that no code of deploytool catches it."""


@dataclass
class Children:
    """The peak MiB and seconds of the commands' child processes since the last reset; `most_s` is their time limit."""

    mib: float = 0.0
    seconds: float = 0.0
    count: int = 0
    most_s: float = CHILD_S

    def reset(self) -> None:
        """Resets the counters."""
        self.mib, self.seconds, self.count = 0.0, 0.0, 0


@dataclass(frozen=True)
class CommandResult:
    """The result of a command: exit code, standard error and output, and problems that the exit code does not show."""

    code: int
    stderr: str
    stdout: str
    problems: tuple[str, ...] = ()


@dataclass
class Case:
    """One tampered artifact: what was tampered with, the exit codes of all commands, and the faults found."""

    what: str
    codes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add_fault(self, text: str) -> None:
        """Records a fault."""
        self.faults.append(f"{self.what}: {text}")

    def check(self, command: str, result: CommandResult, allowed: Sequence[int]) -> CommandResult:
        """Records a command's result; problems and exit codes that are not `allowed` are faults."""
        self.codes.append(str(result.code))
        for problem in result.problems:
            self.add_fault(f"{command}: {problem}")
        if not result.problems and result.code not in allowed:
            self.add_fault(f"{command}: ended with {result.code}: {result.stderr.strip()[:300]!r}")
        return result


CHILDREN = Children()
_TIMER = [signal.ITIMER_REAL]  # the clock of the time limits of commands
_ANSWERS: dict[str, bytes] = {}
_CACHES: list[bool] = []


def call(program: str, *arguments: object) -> CommandResult:
    """Runs one command of the host or the device command line."""
    words, stderr, stdout = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, [program, *words]
    problems: list[str] = []
    code = 1
    try:
        with redirect_stderr(stderr), redirect_stdout(stdout), deadline(LIMIT_S):
            console.set_mode(OutputMode())
            code = app.run() if program == HOST_CLI else _call_device_cli()
    except TimedOut:
        problems.append(f"it exceeded {LIMIT_S:g} s")
    except BaseException as error:  # a user would see a traceback
        problems.append(f"a traceback: {error!r} at {_location(error)}")
    finally:
        sys.argv = before
    errors, output = stderr.getvalue(), stdout.getvalue()
    if code == 1 and not problems:
        problems.append(f"unexpected error: {errors.strip()[:400]!r}")
    if "Traceback" in errors + output:
        problems.append("it printed a traceback")
    if bad := _UNPRINTABLE.search(errors + output):
        problems.append(f"it printed the unsafe character {bad[0]!r}")
    return CommandResult(code, errors, output, tuple(problems))


def _call_device_cli() -> int:
    try:
        back.main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0


def attempt(work: Callable[[], object]) -> CommandResult:
    """Calls the library, which may raise DeployError only."""
    from deploytool.errors import DeployError

    try:
        with deadline(LIMIT_S), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            work()
    except DeployError as error:
        problems = (f"it raised {error!r}",) if error.exit_code == 1 else ()
        return CommandResult(error.exit_code, f"{error}", "", problems)
    except TimedOut:
        return CommandResult(1, "", "", (f"it exceeded {LIMIT_S:g} s",))
    except BaseException as error:
        return CommandResult(1, "", "", (f"a traceback: {error!r} at {_location(error)}",))
    return CommandResult(0, "", "")


def _location(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own_frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "deploytool" in frame.filename]
    return " < ".join(reversed(own_frames[-3:]))


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises TimedOut in this thread if the block takes longer."""

    def expire(number: int, frame: object) -> None:
        raise TimedOut

    timer = _TIMER[0]
    number = signal.SIGALRM if timer == signal.ITIMER_REAL else signal.SIGPROF
    original = signal.signal(number, expire)
    signal.setitimer(timer, seconds, 1.0)  # again and again: Python ignores what is raised while an object is deleted
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, original)


def count_processor_time() -> None:
    """Makes the time limits of commands those of the processor: their work is in this process."""
    _TIMER[0] = signal.ITIMER_PROF


def run_forked(
    command: Sequence[str],
    *,
    what: str,
    seconds: float,
    gibibytes: float,
    **more: object,
) -> str:
    """Replaces `run_limited` for the device's worker by a fork of this process under the same limits, without imports.

    Its other features (own session, memory watch) are covered by its own tests.
    """
    request = Path(command[-1])
    document = json.loads(request.read_text(encoding="utf-8"))
    known = _ANSWERS.get(_request_key(document)) if _CACHES else None
    if known is not None:
        Path(document["answer"]).write_bytes(known)
        return ""
    start, (read, write) = time.monotonic(), os.pipe()
    child = os.fork()
    if not child:
        _work(command[-1], write, gibibytes)
    os.close(write)
    status = _wait(child, start + min(seconds, CHILDREN.most_s))
    with os.fdopen(read, "rb") as pipe:
        output = pipe.read(10_000).decode(errors="replace")
    if status is None:
        raise ChildDied(f"{what} was stopped after {seconds:g} s", "give it more time, or leave it out")
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        if _CACHES:
            _ANSWERS[_request_key(document)] = Path(document["answer"]).read_bytes()
        return ""
    kind = ChildDied if code < 0 else StageFailed
    raise kind(f"{what} {process._ending(code)}: {process._last_line(output)}", "leave it out, or report it")


def _request_key(document: dict[str, Any]) -> str:
    """A worker's request without its paths."""
    return json.dumps(
        {**document, "folder": "", "answer": "", "candidate": {**document["candidate"], "path": ""}}, sort_keys=True
    )


def _wait(child: int, until: float) -> int | None:
    """The exit status of a child; None if it took too long and was killed."""
    start, is_late = time.monotonic(), False
    while True:
        with suppress(InterruptedError):
            ended, status, usage = os.wait4(child, os.WNOHANG)
            if ended:
                break
        if time.monotonic() > until and not is_late:
            os.kill(child, signal.SIGKILL)
            is_late = True
        time.sleep(0.002)
    CHILDREN.mib = max(CHILDREN.mib, usage.ru_maxrss / 1024)
    CHILDREN.seconds = max(CHILDREN.seconds, time.monotonic() - start)
    CHILDREN.count += 1
    return None if is_late else status


def _work(request: str, write: int, gibibytes: float) -> None:
    """Runs the worker in the child and exits."""
    code = 1
    try:
        signal.setitimer(_TIMER[0], 0)
        os.dup2(write, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        if gibibytes != float("inf"):
            resource.setrlimit(resource.RLIMIT_AS, (int(min(gibibytes, CHILD_GIB) * process.GIBIBYTE),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        worker.main(request)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def fork_workers(*, cache: bool = False, seconds: float = CHILD_S) -> None:
    """Makes the device's child processes forks of this process, with a very short timing of models.

    With `cache`, the answer to a repeated request is reused, because equal manifests and graphs give equal answers.
    """
    _ANSWERS.clear()
    CHILDREN.most_s = seconds
    _CACHES[:] = [True] * cache
    commands._QUICK = serve._SECONDS = 0.001
    probe.run_limited = run_forked  # type: ignore[attr-defined]  # `probe` calls the name that it imports


def forget_peak() -> None:
    """Resets the peak memory of this process."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mib() -> float:
    """The peak memory of this process since the last reset."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(match[1]) * 1024 / _MIB if match else 0.0
