"""Talks to a device over ssh: one connection for each request, again after an interruption, until patience ends."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from deploytool import serde
from deploytool.errors import BadInput, DeployError, DeviceBusy, MissingBackend, Unreachable
from deploytool.fleet.devices import FleetDevice
from deploytool.host.exception_text import clean
from deploytool.transfer import login, ssh

T = TypeVar("T")
Say = Callable[[str], object]
Answer = Mapping[str, Any]

_SSH_FAILED = 255  # exit code of ssh itself; any other is that of the program on the device
_MAX_LINE, _MAX_ERRORS, _BLOCK = 48 << 20, 4000, 64 << 10
_MOST_OTHER_LINES = 1000  # that a login prints
_SILENCE_S = 30.0  # without a sign of life, after which a connection is given up
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 15.0
_AGAIN = "check the device with ssh, and repeat the command: a job that was started goes on there, and is found again"
GET_DEPLOYTOOL = "deploy a bundle that was packed with --with-tool, or install deploytool in the python of the device"
_PROGRAM = Path(__file__).with_name("agent.py")


class NoDeploytool(MissingBackend):
    """A device has no deploytool, or one that does not start or is of another version."""


@dataclass
class Session:
    """The connection to one device. `slot` is held while work goes on over a connection, and not while waiting for one.

    `say` takes each line of the device, and `doing` what is done there from now on. After `patience_s` seconds without
    an answer the device is given up. `cuts` counts the interrupted connections. `tool` is the name of the tool there
    that ran the last commands, empty for the deploytool of its Python.
    """

    device: FleetDevice
    say: Say
    doing: Say
    patience_s: float
    slot: AbstractContextManager[object] = field(default_factory=nullcontext)
    cuts: int = 0
    tool: str = ""
    _heard: float = field(default_factory=time.monotonic)

    def run(self, *command: str, patience_s: float | None = None) -> Answer:
        """Runs a command of the device's deploytool, and returns how it ended."""
        asked = {"do": "run", "command": command, "root": self.device.address.root}

        def once() -> Answer:
            return next(answer for answer in self._ask(asked) if "done" in answer)

        answer = self.persist(once, patience_s)
        self.tool = str(answer["tool"])
        done: Answer = answer["done"]
        return done

    def work(self, request: Mapping[str, serde.Json]) -> Answer:
        """Starts a job, passes on what it prints, however often the connection is interrupted, and returns its result.

        A job with the same request that is still at work there is followed instead.
        """
        job, offset = "", 0

        def once() -> Answer | None:
            nonlocal job, offset
            start: dict[str, object] = {"do": "start", **request}
            asked = {"do": "follow", "job": job, "offset": offset} if job else start
            for answer in self._ask({"root": self.device.address.root, **asked}):
                if "job" in answer:
                    job = str(answer["job"])
                elif "log" in answer:
                    offset = int(answer["offset"])
                    for line in str(answer["log"]).splitlines():
                        self.say(line)
                elif "result" in answer:
                    result: Answer = answer["result"]
                    return result
                elif "more" in answer:
                    break
            return None  # the device ends a connection after some minutes

        while (result := self.persist(once)) is None:
            pass
        self.tool = str(result["tool"])
        return result

    def persist(self, once: Callable[[], T], patience_s: float | None = None) -> T:
        """Calls a function again as long as the connection is interrupted, or the device is busy, until patience ends.

        Raises the last error then, which says how often it was tried. One line is said for each interruption.
        """
        self._heard, pause, attempts = time.monotonic(), _FIRST_PAUSE_S, 0
        patience = self.patience_s if patience_s is None else patience_s
        while True:
            heard = self._heard
            try:
                with self.slot:
                    return once()
            except (Unreachable, DeviceBusy) as error:
                self.cuts += isinstance(error, Unreachable)
                was_heard = self._heard > heard
                attempts = 1 if was_heard else attempts + 1
                pause = _FIRST_PAUSE_S if was_heard else min(2 * pause, _LONGEST_PAUSE_S)
                silent = time.monotonic() - self._heard
                if silent + pause > patience:
                    times = f"tried {attempts} times in {silent:.0f} s"
                    raise type(error)(f"{error}; {times}", error.remedy) from error
                if attempts == 1:
                    self.say(f"{error}; trying again for {patience:.0f} s")
                time.sleep(pause)

    def heard(self) -> None:
        """Notes a sign of life."""
        self._heard = time.monotonic()

    def _ask(self, request: Mapping[str, object]) -> Iterator[Answer]:
        """The answers to a request over a connection of its own.

        Raises Unreachable if the connection fails or falls silent, MissingBackend if Python does not start there,
        NoDeploytool if it has no deploytool, and BadInput for another problem that the device reports.
        """
        program, answered = _PROGRAM.read_bytes(), False
        command = ssh.command(self.device.address.host, self.device.ssh, program)
        with tempfile.TemporaryFile() as errors, _started(command, errors) as child:
            assert child.stdin is not None
            with suppress(BrokenPipeError):  # the reason is in what ssh prints
                child.stdin.write(program + json.dumps(request).encode() + b"\n")
                child.stdin.flush()
            for answer in self._answers(child):
                self.heard()
                answered = True
                if answer.get("missing") is True:
                    raise NoDeploytool(clean(str(answer["problem"])), GET_DEPLOYTOOL)
                if "problem" in answer:
                    problem = f"{self.device.name}: {clean(str(answer['problem']))}"
                    raise BadInput(problem, "check the root on the device, its permissions and its disk")
                yield answer
            with suppress(subprocess.TimeoutExpired):
                child.wait(_SILENCE_S)
            errors.seek(0)
            raise self._failure(child.returncode or 0, errors.read(_MAX_ERRORS), answered=answered)

    def _answers(self, child: subprocess.Popen[bytes]) -> Iterator[Answer]:
        """What the program on the device answers; lines that the login prints are skipped."""
        others = 0
        for line in self._lines(child):
            if line.startswith(ssh.MARK):
                with suppress(ValueError):
                    answer = serde.loads(line[len(ssh.MARK) :])
                    if isinstance(answer, dict):
                        yield answer
                        continue
            others += 1
            if others > _MOST_OTHER_LINES:
                raise Unreachable(f"{self.device.name} prints other text without end", "check its login scripts")

    def _lines(self, child: subprocess.Popen[bytes]) -> Iterator[bytes]:
        """The complete lines that arrive; raises Unreachable if nothing arrives for long."""
        assert child.stdout is not None
        pending = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(_SILENCE_S):
                    raise Unreachable(f"{self.device.name} sent nothing for {_SILENCE_S:.0f} s", _AGAIN)
                block = os.read(child.stdout.fileno(), _BLOCK)
                if not block:
                    return
                pending += block
                if b"\n" in block:
                    *lines, rest = bytes(pending).split(b"\n")
                    pending = bytearray(rest)
                    yield from lines
                elif len(pending) > _MAX_LINE:
                    raise Unreachable(f"{self.device.name} prints a line without end", "check its login scripts")

    def _failure(self, code: int, errors: bytes, *, answered: bool) -> DeployError:
        """The error for a connection that ended before the last answer."""
        said = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
        why = clean(said[-1]) if said else "the connection was closed"
        if answered or code == _SSH_FAILED:
            return login.failure(self.device.name, why, _AGAIN)
        problem = f"{self.device.name}: {self.device.ssh.python} does not start there: {why}"
        return MissingBackend(problem, f"set python in [devices.{self.device.name}], which needs --config")


@contextmanager
def _started(command: Sequence[str], errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command, and kills it at the end."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
