"""Runs workers in forks of a process that has imported their libraries, under the limits of `process.run_limited`.

The server is forked before this process runs any model: a process that has may have threads, and must not be forked.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from deploytool.errors import ChildDied, ChildFailed
from deploytool.host import process
from deploytool.host.process import GIBIBYTE
from deploytool.serde import Json
from tests.fuzz.judge import CHILDREN

CHILD_GIB = 2.0  # by which the memory of a worker may grow (in production: 8 GiB in all)
_HIDDEN = ("torch", "sympy")  # onnxsim imports them where it can
_LIBRARIES = ("onnxsim", "onnxruntime", "matplotlib.pyplot", "jinja2", "deploytool.report.page_worker")
_MOST_WAITING = 8.0  # multiple of its processor time that a worker may take
_MODULE = 2  # position in a command of `workers.command`


class ForkServer:
    """A process that forks a worker for each request; `install` makes it take the place of `run_limited`."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._socket, other = socket.socketpair()
        self._ahead: set[tuple[str, ...]] = set()
        if not os.fork():
            self._socket.close()
            _serve(other)
        other.close()
        self._replies = self._socket.makefile("r", encoding="utf-8")

    def install(self) -> None:
        """Replaces the functions that start children, wherever they were imported."""
        replaced: dict[str, Callable[..., Any]] = {
            "run_limited": self.run,
            "start_ahead": lambda command, *_, **__: self._ahead.add(tuple(command)),
            "is_waiting": lambda command: tuple(command) in self._ahead,
            "stop_ahead": lambda command: self._ahead.discard(tuple(command)),
        }
        originals = {getattr(process, name): function for name, function in replaced.items()}
        for module in [module for name, module in sys.modules.items() if name.startswith("deploytool.")]:
            for name in replaced:
                if (original := getattr(module, name, None)) in originals:
                    setattr(module, name, originals[original])

    def run(
        self,
        command: Sequence[str],
        *,
        what: str,
        seconds: float,
        gibibytes: float,
        task: Json = None,
        on_line: Callable[[str], None] | None = None,
        **_: object,
    ) -> str:
        """Runs a worker as `run_limited` does; only its own session and the limit on its files are left out."""
        self._ahead.discard(tuple(command))
        limit_s = min(seconds, CHILDREN.most_s)
        request = {"arguments": command[_MODULE:], "task": task, "seconds": limit_s, "gib": min(gibibytes, CHILD_GIB)}
        self._socket.sendall((json.dumps({**request, "folder": str(self._scratch)}) + "\n").encode())
        reply = json.loads(self._replies.readline())
        CHILDREN.mib = max(CHILDREN.mib, reply["mib"])
        CHILDREN.seconds = max(CHILDREN.seconds, reply["seconds"])
        CHILDREN.count += 1
        stdout, stderr = reply["stdout"], reply["stderr"]
        for line in stdout.splitlines(keepends=True) if on_line else ():
            assert on_line is not None
            on_line(line)
        if (code := reply["code"]) is None:
            raise ChildDied(f"{what} was stopped after {seconds:g} s", "give it more time, or leave it out")
        if code == 0:
            return str(stdout)
        last_line = process._last_line(stderr)
        problem, remedy = f"{what} {process._ending(code)}: {last_line}", "leave it out, or report it"
        if code > 0:
            raise ChildFailed(problem, remedy, last_line)
        raise ChildDied(problem, remedy, -code)


def preload() -> None:
    """Imports the libraries of the workers."""
    hidden = {name: sys.modules.get(name) for name in _HIDDEN}
    sys.modules.update(dict.fromkeys(_HIDDEN))  # type: ignore[arg-type]  # None makes their import fail
    for name in _LIBRARIES:
        import_module(name)
    for name, module in hidden.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module


def _serve(requests: socket.socket) -> NoReturn:
    """Answers requests until the other end is closed."""
    code = 1
    try:
        preload()
        for line in requests.makefile("r", encoding="utf-8"):
            requests.sendall((json.dumps(_answer(json.loads(line))) + "\n").encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Runs one worker and returns what became of it."""
    paths = [Path(request["folder"], f"worker.{name}") for name in ("stdin", "stdout", "stderr")]
    paths[0].write_text(json.dumps(request["task"]) + "\n", encoding="utf-8")
    start = time.monotonic()
    child = os.fork() or _work(request, paths)
    is_late, status, usage = False, 0, resource.getrusage(resource.RUSAGE_SELF)
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        seconds = max(_processor_seconds(child), (time.monotonic() - start) / _MOST_WAITING)
        if seconds > request["seconds"] and not is_late:
            os.kill(child, signal.SIGKILL)
            is_late = True
        time.sleep(0.005)
    stdout, stderr = (path.read_text(encoding="utf-8", errors="replace")[-100_000:] for path in paths[1:])
    for path in paths:
        path.unlink()
    code = None if is_late else os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    return {"code": code, "stdout": stdout, "stderr": stderr, "mib": usage.ru_maxrss / 1024, "seconds": seconds}


def _work(request: dict[str, Any], paths: Sequence[Path]) -> NoReturn:
    """Runs the `main` of a worker with its standard streams in files, and exits."""
    code = 1
    try:
        flags = (os.O_RDONLY, *(os.O_WRONLY | os.O_CREAT | os.O_TRUNC,) * 2)
        for target, (path, flag) in enumerate(zip(paths, flags, strict=True)):
            os.dup2(os.open(path, flag, 0o600), target)
        streams: list[Any] = [os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")]
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.__stdout__, sys.__stderr__ = streams[1:]  # type: ignore[misc]  # the workers print there
        limit = _address_space() + int(request["gib"] * GIBIBYTE)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        module, *arguments = request["arguments"]
        import_module(module).main(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _processor_seconds(child: int) -> float:
    """The processor time of a running child, which a busy machine does not prolong."""
    fields = Path(f"/proc/{child}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _address_space() -> int:
    """The bytes of address space that this process uses."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
