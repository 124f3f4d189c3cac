"""Injects an error into one file system call of this process, which is a forked child under test.

It covers the calls that Python makes to open, write, rename and remove files, not those of native libraries;
`faults.run_traced` injects errors into system calls of both.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import itertools
import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

from deploytool.host import swap

_COMMON = (errno.EIO, errno.EINTR)
_CREATING = (*_COMMON, errno.ENOSPC, errno.EDQUOT, errno.EACCES)
ERRORS: Mapping[str, Sequence[int]] = {  # the errors that are injected into each kind of call
    "open": (*_CREATING, errno.EMFILE),
    "write": (*_COMMON, errno.ENOSPC, errno.EDQUOT),
    "fsync": (*_COMMON, errno.ENOSPC, errno.EDQUOT),
    "sendfile": (*_COMMON, errno.ENOSPC, errno.EDQUOT),
    "ftruncate": (*_COMMON, errno.ENOSPC),
    "mkdir": _CREATING,
    "link": _CREATING,
    "symlink": _CREATING,
    "rename": _CREATING,
    "replace": _CREATING,
    "exchange": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES),
    "unlink": (*_COMMON, errno.EACCES),
    "rmdir": (*_COMMON, errno.EACCES),
    "chmod": (*_COMMON, errno.EACCES),
    "utime": (*_COMMON, errno.EACCES),
    "stat": (*_COMMON, errno.EACCES),
    "lstat": (*_COMMON, errno.EACCES),
    "scandir": (*_COMMON, errno.EACCES, errno.EMFILE),
    "listdir": (*_COMMON, errno.EACCES, errno.EMFILE),
    "pipe": (errno.EMFILE,),
    "connect": (errno.EMFILE, errno.EACCES),
}
_USES_DISK_SPACE = ("write", "fsync", "sendfile", "mkdir", "link", "symlink", "rename", "replace")


@dataclass(frozen=True)
class Fault:
    """The number of the failing call (from 0) and its error; with `lasting`, the disk stays full from then on."""

    number: int
    code: int
    lasting: bool = False

    def __str__(self) -> str:
        return f"{errno.errorcode[self.code]} at call {self.number}{' and all later ones' if self.lasting else ''}"


class CallCounter:
    """Counts the calls and raises an error in the one that should fail."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault, self.kinds, self._number = fault, list[str](), itertools.count()

    def record(self, kind: str, path: object = None) -> None:
        """Counts a call; raises OSError if it should fail."""
        number, fault = next(self._number), self.fault
        self.kinds.append(kind)
        if (
            fault is None
            or number < fault.number
            or (number > fault.number and not (fault.lasting and kind in _USES_DISK_SPACE))
        ):
            return
        name = path if isinstance(path, (str, bytes)) else os.fspath(path) if isinstance(path, os.PathLike) else None
        raise OSError(fault.code, os.strerror(fault.code), name)


def install(counter: CallCounter) -> None:
    """Counts all further calls of this process with `counter`; cannot be undone."""
    for name in ERRORS:
        if hasattr(os, name):
            setattr(os, name, _wrap(counter, name, getattr(os, name)))
    os.remove = os.unlink
    _wrap_open(counter)
    socket.create_connection = _wrap(counter, "connect", socket.create_connection)
    if swap._renameat2 is not None:
        swap._renameat2 = _wrap_exchange(counter, swap._renameat2)


def _wrap_exchange(counter: CallCounter, exchange: Callable[..., int]) -> Callable[..., int]:
    def exchange_counted(*args: Any) -> int:
        try:
            counter.record("exchange")
        except OSError as error:
            ctypes.set_errno(error.errno or 0)
            return -1
        return exchange(*args)

    return exchange_counted


def _wrap(counter: CallCounter, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def counted(*args: Any, **options: Any) -> Any:
        counter.record(kind, args[0] if args else None)
        return call(*args, **options)

    return counted


class _Raw(io.FileIO):
    """A file whose writes are counted."""

    counter: CallCounter

    def write(self, content: Any) -> int:
        self.counter.record("write", self.name)
        return super().write(content)


def _wrap_open(counter: CallCounter) -> None:
    """Replaces `open`, so that files opened for writing count their writes."""
    original = io.open
    raw = type("Raw", (_Raw,), {"counter": counter})

    def open_counted(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        if not isinstance(file, int):
            counter.record("open", file)
        is_pipe = isinstance(file, int) and not stat.S_ISREG(os.fstat(file).st_mode)
        if is_pipe or not set(mode) & set("wax+"):
            return original(file, mode, buffering, *args, **options)
        raw_options = {name: options.pop(name) for name in ("closefd", "opener") if name in options}
        raw_file = raw(file, "".join(letter for letter in mode if letter not in "bt"), **raw_options)
        if buffering == 0:
            return raw_file
        buffered: Any = io.BufferedRandom(raw_file) if "+" in mode else io.BufferedWriter(raw_file)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, *args, **options)
        text.mode = mode  # type: ignore[misc]  # as `open` sets it
        return text

    vars(builtins)["open"] = vars(io)["open"] = open_counted


def write_calls_at_exit(counter: CallCounter, path: Path) -> None:
    """Writes the kinds of all calls to a file when this process ends normally."""
    exit_process, write = os._exit, os.write
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def write_and_exit(code: int) -> None:
        write(descriptor, "\n".join(counter.kinds).encode())
        exit_process(code)

    os._exit = partial(write_and_exit)  # type: ignore[assignment]  # it exits too
