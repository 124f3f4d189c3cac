"""Calls the commands in this process as a user would, and says what is wrong with how one of them ended."""

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

from deploytool import cli
from deploytool.cli import console
from deploytool.cli.console import OutputMode
from deploytool.device import __main__ as back
from deploytool.device import commands, probe, serve, worker
from deploytool.errors import ChildDied, StageFailed
from deploytool.host import process

FRONT, BACK = "deploytool", "deploytool.device"
LIMIT_S = 90.0  # of a command
CHILD_S, CHILD_GIB = 8.0, 3.0  # of a child, where a user's may take 120 and 8
REFUSED = (2, 8, 9)  # bad input, refused, unreachable
_MEBIBYTE = 1 << 20
_SHOWN = re.compile(r"[^\x20-\x7e\n\xa0-\u200a\u2010-\u2027\u2030-\ud7ff\ue000-\ufefe\uff00-\U0010ffff]")


class Hung(BaseException):
    """A command took longer than it may; nothing of ours catches this."""


@dataclass
class Children:
    """What the children of the commands took, in MiB and seconds, since somebody last asked; how long one may."""

    mib: float = 0.0
    seconds: float = 0.0
    count: int = 0
    most_s: float = CHILD_S

    def forget(self) -> None:
        """Begins anew."""
        self.mib, self.seconds, self.count = 0.0, 0.0, 0


@dataclass(frozen=True)
class Seen:
    """How a command ended: its exit code, what it said, and what went wrong that no exit code tells."""

    code: int
    said: str
    document: str
    wrong: tuple[str, ...] = ()


@dataclass
class Case:
    """One thing that was tampered with, how each command took it, and what is wrong."""

    what: str
    codes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        """Notes one."""
        self.faults.append(f"{self.what}: {text}")

    def seen(self, command: str, seen: Seen, allowed: Sequence[int]) -> Seen:
        """Notes how a command ended; anything but the `allowed` exit codes is a fault, and so is what is wrong."""
        self.codes.append(str(seen.code))
        for wrong in seen.wrong:
            self.fault(f"{command}: {wrong}")
        if not seen.wrong and seen.code not in allowed:
            self.fault(f"{command}: ended with {seen.code}: {seen.said.strip()[:300]!r}")
        return seen


CHILDREN = Children()
_ANSWERS: dict[str, bytes] = {}
_REMEMBERS: list[bool] = []


def call(door: str, *arguments: object) -> Seen:
    """One command of the front or the back door."""
    words, said, told = [str(each) for each in arguments], io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, [door, *words]
    wrong: list[str] = []
    code = 1
    try:
        with redirect_stderr(said), redirect_stdout(told), deadline(LIMIT_S):
            console.set_mode(OutputMode())
            code = cli._called() if door == FRONT else _back()
    except Hung:
        wrong.append(f"it hung: {LIMIT_S:g} s were not enough")
    except BaseException as error:  # what a user would see as a traceback
        wrong.append(f"a traceback: {error!r} at {_place(error)}")
    finally:
        sys.argv = before
    spoken = said.getvalue()
    if code == 1 and not wrong:
        wrong.append(f"unforeseen: {spoken.strip()[:400]!r}")
    if "Traceback" in spoken + told.getvalue():
        wrong.append("it said Traceback")
    if bad := _SHOWN.search(spoken + told.getvalue()):
        wrong.append(f"it said {bad[0]!r} to the terminal")
    return Seen(code, spoken, told.getvalue(), tuple(wrong))


def _back() -> int:
    try:
        back.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


def attempt(work: Callable[[], object]) -> Seen:
    """A call of the library, which may raise nothing but our own errors."""
    from deploytool.errors import DeployError

    try:
        with deadline(LIMIT_S), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            work()
    except DeployError as error:
        wrong = (f"it raised {error!r}",) if error.exit_code == 1 else ()
        return Seen(error.exit_code, f"{error}", "", wrong)
    except Hung:
        return Seen(1, "", "", (f"it hung: {LIMIT_S:g} s were not enough",))
    except BaseException as error:
        return Seen(1, "", "", (f"a traceback: {error!r} at {_place(error)}",))
    return Seen(0, "", "")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(each.filename).name}:{each.lineno}" for each in frames if "deploytool" in each.filename]
    return " < ".join(reversed(ours[-3:]))


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises Hung in this thread where what is inside takes longer."""

    def late(number: int, frame: object) -> None:
        raise Hung

    usual = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


def forked(
    command: Sequence[str],
    *,
    what: str,
    seconds: float,
    gibibytes: float,
    **more: object,
) -> str:
    """`child.run_limited` for the device's worker without its imports: a fork of this process, under the same limits.

    What a user's child does beyond that – its own session, its watch over memory – the tests of the child are for.
    """
    request = Path(command[-1])
    asked = json.loads(request.read_text(encoding="utf-8"))
    known = _ANSWERS.get(_same(asked)) if _REMEMBERS else None
    if known is not None:
        Path(asked["answer"]).write_bytes(known)
        return ""
    begun, (read, write) = time.monotonic(), os.pipe()
    born = os.fork()
    if not born:
        _work(command[-1], write, gibibytes)
    os.close(write)
    status = _waited(born, begun + min(seconds, CHILDREN.most_s))
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read(10_000).decode(errors="replace")
    if status is None:
        raise ChildDied(f"{what} was stopped after {seconds:g} s", "give it more time, or leave it out")
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        if _REMEMBERS:
            _ANSWERS[_same(asked)] = Path(asked["answer"]).read_bytes()
        return ""
    kind = ChildDied if code < 0 else StageFailed
    raise kind(f"{what} {process._ending(code)}: {process._last_line(said)}", "leave it out, or report it")


def _same(asked: dict[str, Any]) -> str:
    """What is asked of a child, wherever the bundle lies."""
    return json.dumps({**asked, "folder": "", "answer": "", "way": {**asked["way"], "path": ""}}, sort_keys=True)


def _waited(born: int, until: float) -> int | None:
    """The status of a child; None where it took too long and was killed."""
    begun, late = time.monotonic(), False
    while True:
        with suppress(InterruptedError):
            done, status, used = os.wait4(born, os.WNOHANG)
            if done:
                break
        if time.monotonic() > until and not late:
            os.kill(born, signal.SIGKILL)
            late = True
        time.sleep(0.002)
    CHILDREN.mib = max(CHILDREN.mib, used.ru_maxrss / 1024)
    CHILDREN.seconds = max(CHILDREN.seconds, time.monotonic() - begun)
    CHILDREN.count += 1
    return None if late else status


def _work(request: str, write: int, gibibytes: float) -> None:
    """In the child: the worker, and the end."""
    code = 1
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
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


def fork_workers(*, remembers: bool = False, seconds: float = CHILD_S) -> None:
    """From now on the device's children are forks of this process, and time their models for a moment only.

    What one answered to a request is not asked again where somebody `remembers`: the same manifest and graph, once
    their bytes have been held, give the same answer.
    """
    _ANSWERS.clear()
    CHILDREN.most_s = seconds
    _REMEMBERS[:] = [True] * remembers
    commands._QUICK = serve._SECONDS = 0.001
    probe.run_limited = forked  # type: ignore[attr-defined]  # it is imported there, and so is called there


def forget_peak() -> None:
    """Begins to count the memory of this process anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mib() -> float:
    """The most memory that this process held since it was last forgotten."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 / _MEBIBYTE if found else 0.0
