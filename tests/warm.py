"""Runs commands in new processes that need not import the heavy libraries: forks of one that has imported them.

Only libraries are imported ahead, no module of deploytool: what a command imports of deploytool, it imports itself.
That libraries are imported late, or not at all, is tested in processes that begin with nothing (`modules_of`).
"""

from __future__ import annotations

import gc
import io
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

_CLIENT = Path(__file__).with_name("warm_client.py")
# ONNX Runtime is left out: it starts a thread when it is imported, and a process with threads must not fork
_LIBRARIES = ("torch.onnx", "onnx", "safetensors.torch", "PIL.Image", "typer.testing", "rich.table")
_READ_ON_IMPORT = ("LD_", "LANG", "LC_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "TORCH")  # beginnings of variables


@contextmanager
def running(environment: Mapping[str, str]) -> Iterator[str]:
    """Yields the address of a process that waits for commands until the block ends."""
    program = [sys.executable, "-m", "tests.warm"]
    with (
        tempfile.TemporaryDirectory(prefix="warm-") as folder,  # the address of a socket must be short
        subprocess.Popen(
            [*program, address := f"{folder}/warm"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield address
        assert process.stdin is not None
        process.stdin.close()


def command(address: str, *arguments: str) -> list[str]:
    """The command line that runs `python *arguments`, with -m or -c first, in a fork of the process at `address`."""
    return [sys.executable, "-I", "-S", str(_CLIENT), address, *arguments]


def is_able(environment: Mapping[str, str]) -> bool:
    """Whether a command with these further variables runs as in a fresh process: no library reads one on import."""
    return not any(name.startswith(_READ_ON_IMPORT) for name in environment)


def _serve(address: str) -> None:
    """Answers each connection in a fork, until stdin is closed."""
    for name in _LIBRARIES:
        import_module(name)
    assert threading.active_count() == len([*Path("/proc/self/task").iterdir()]) == 1, (
        "a process with threads must not fork"
    )
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while sys.stdin not in (waiting := select.select([sys.stdin, listening], [], [], 1.0)[0]):
            if waiting:
                connection, _ = listening.accept()
                with connection:
                    if not os.fork():
                        _answer(connection)
            _reap()


def _reap() -> None:
    """Removes forks that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _answer(connection: socket.socket) -> NoReturn:
    """Runs the command of a connection in a fork of this fork, and sends its exit code, negative if it was killed."""
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    request = json.loads(connection.makefile().readline())
    child = os.fork() or _run(streams, request)
    status = os.waitpid(child, 0)[1]
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _run(streams: list[int], request: dict[str, Any]) -> NoReturn:
    """Runs the command, and ends as Python does."""
    code: object = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, max(streams) + 1)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        _replace_streams()
        _start_python(*request["arguments"])
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _replace_streams() -> None:
    """Makes Python's standard streams anew, as a start would: they buffer according to what they lead to."""
    for number, (name, mode) in enumerate((("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb"))):
        old, at_once = getattr(sys, name), name == "stderr" or os.isatty(number)
        raw = open(number, mode, closefd=False)  # noqa: SIM115  # it stays open
        stream = io.TextIOWrapper(raw, old.encoding, old.errors, line_buffering=at_once)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _start_python(option: str, program: str, *arguments: str) -> None:
    """Runs a module (-m) or the text of a program (-c) as Python would."""
    sys.path[0] = str(Path.cwd()) if option == "-m" else ""
    sys.argv = [option, *arguments]
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), vars(module))


if __name__ == "__main__":
    _serve(sys.argv[1])
