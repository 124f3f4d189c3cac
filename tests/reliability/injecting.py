"""Has one call to the file system fail in this process: for a forked child that is to be set upon.

What Python itself opens, writes, renames and removes goes through here. What libraries do in native code does not:
`traced` does the same to those by the kernel's own door.
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

_ANY = (errno.EIO, errno.EINTR)
_NEW = (*_ANY, errno.ENOSPC, errno.EDQUOT, errno.EACCES)
ERRORS: Mapping[str, Sequence[int]] = {  # what each kind of call may fail with
    "open": (*_NEW, errno.EMFILE),
    "write": (*_ANY, errno.ENOSPC, errno.EDQUOT),
    "fsync": (*_ANY, errno.ENOSPC, errno.EDQUOT),
    "sendfile": (*_ANY, errno.ENOSPC, errno.EDQUOT),
    "ftruncate": (*_ANY, errno.ENOSPC),
    "mkdir": _NEW,
    "link": _NEW,
    "symlink": _NEW,
    "rename": _NEW,
    "replace": _NEW,
    "exchange": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES),
    "unlink": (*_ANY, errno.EACCES),
    "rmdir": (*_ANY, errno.EACCES),
    "chmod": (*_ANY, errno.EACCES),
    "utime": (*_ANY, errno.EACCES),
    "stat": (*_ANY, errno.EACCES),
    "lstat": (*_ANY, errno.EACCES),
    "scandir": (*_ANY, errno.EACCES, errno.EMFILE),
    "listdir": (*_ANY, errno.EACCES, errno.EMFILE),
    "pipe": (errno.EMFILE,),
    "connect": (errno.EMFILE, errno.EACCES),
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAKES_ROOM = ("write", "fsync", "sendfile", "mkdir", "link", "symlink", "rename", "replace")


@dataclass(frozen=True)
class Fault:
    """The number of the call that fails, from 0, and the error; `lasting` is a disk that is full from then on."""

    at: int
    code: int
    lasting: bool = False

    def __str__(self) -> str:
        return f"{errno.errorcode[self.code]} at call {self.at}{' and ever after' if self.lasting else ''}"


class Gate:
    """What every call passes: it counts them, and has the one fail that is meant."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault, self.kinds, self._number = fault, list[str](), itertools.count()

    def passed(self, kind: str, path: object = None) -> None:
        """Raises OSError if this call is to fail."""
        number, fault = next(self._number), self.fault
        self.kinds.append(kind)
        if fault is None or number < fault.at or (number > fault.at and not (fault.lasting and kind in _TAKES_ROOM)):
            return
        name = path if isinstance(path, (str, bytes)) else os.fspath(path) if isinstance(path, os.PathLike) else None
        raise OSError(fault.code, os.strerror(fault.code), name)


def install(gate: Gate) -> None:
    """From here on every call of this process goes through the gate; there is no way back but its end."""
    for name in ERRORS:
        if hasattr(os, name):
            setattr(os, name, _gated(gate, name, getattr(os, name)))
    os.remove = os.unlink
    _files(gate)
    socket.create_connection = _gated(gate, "connect", socket.create_connection)
    if swap._renameat2 is not None:
        swap._renameat2 = _exchanging(gate, swap._renameat2)


def _exchanging(gate: Gate, exchange: Callable[..., int]) -> Callable[..., int]:
    def exchanged(*given: Any) -> int:
        try:
            gate.passed("exchange")
        except OSError as error:
            ctypes.set_errno(error.errno or 0)
            return -1
        return exchange(*given)

    return exchanged


def _gated(gate: Gate, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def through(*given: Any, **named: Any) -> Any:
        gate.passed(kind, given[0] if given else None)
        return call(*given, **named)

    return through


class _Raw(io.FileIO):
    """A file whose every write goes through the gate."""

    gate: Gate

    def write(self, content: Any) -> int:
        self.gate.passed("write", self.name)
        return super().write(content)


def _files(gate: Gate) -> None:
    """Has whatever is opened for writing be such a file."""
    usual = io.open
    raw = type("Raw", (_Raw,), {"gate": gate})

    def opened(file: Any, mode: str = "r", buffering: int = -1, *given: Any, **named: Any) -> Any:
        if not isinstance(file, int):
            gate.passed("open", file)
        pipe = isinstance(file, int) and not stat.S_ISREG(os.fstat(file).st_mode)
        if pipe or not set(mode) & set("wax+"):
            return usual(file, mode, buffering, *given, **named)
        through = {name: named.pop(name) for name in ("closefd", "opener") if name in named}
        made = raw(file, "".join(sign for sign in mode if sign not in "bt"), **through)
        if buffering == 0:
            return made
        buffered: Any = io.BufferedRandom(made) if "+" in mode else io.BufferedWriter(made)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, *given, **named)
        text.mode = mode  # type: ignore[misc]  # as `open` leaves it
        return text

    vars(builtins)["open"] = vars(io)["open"] = opened


def counted(gate: Gate, to: Path) -> None:
    """Has the kinds of all calls be written to a file when this process ends by itself."""
    end, write = os._exit, os.write
    place = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def ended(code: int) -> None:
        write(place, "\n".join(gate.kinds).encode())
        end(code)

    os._exit = partial(ended)  # type: ignore[assignment]  # it ends there too
