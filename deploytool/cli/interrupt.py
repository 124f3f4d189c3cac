"""Handles Ctrl-C and SIGTERM: they end the process at once, and remove its unfinished files.

No KeyboardInterrupt is raised, because a library may swallow it, or crash (torch does while it is imported). Outputs
are published by a rename, so the process can be stopped at any time: the signal handler halts the main thread, and
another thread runs the clean-up functions and exits.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import NoReturn

from deploytool.host import process, scratch, terminal

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
REMEDY = "run the same command again: it continues from the finished steps"
_HALT_SECONDS = 0.3  # time for the main thread to return from a library's code before the clean-up
_CLEAR_LINE = b"\r\x1b[2K\x1b[?25h"  # erases the progress bar and shows the cursor

_sweeps: list[Callable[[], None]] = []
_halted = threading.Event()


def install_handlers(output: Callable[[], bytes]) -> None:
    """Installs the signal handlers; on an interruption the bytes that `output` returns are written to stdout.

    Also makes a temporary folder for this process and its children. Raises OSError or RuntimeError if no pipe or thread
    can be created.
    """
    with suppress(OSError):  # on a read-only machine there may be no temporary folder; most commands need none
        folder = scratch.make()
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)  # children inherit it
        _sweeps.append(partial(shutil.rmtree, folder, ignore_errors=True))
        atexit.register(_sweeps[0])
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in _CODES:
        signal.signal(number, _halt)
    threading.Thread(target=_listen, args=(reading, output), daemon=True).start()


@contextmanager
def sweeping(sweep: Callable[[], None]) -> Iterator[None]:
    """Calls `sweep` if the process is interrupted inside the `with` block."""
    _sweeps.append(sweep)
    try:
        yield
    finally:
        _sweeps.remove(sweep)


def exit_on_signal(code: int) -> NoReturn:
    """Ends the process with this exit code; signals are ignored from here on.

    Skips the interpreter's shutdown, which takes half a second with torch. The exit code is 120 instead of 0 if stdout
    could not be written.
    """
    for sweep in _sweeps[:1]:
        sweep()
    for number in _CODES:
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    os._exit(terminal.final_exit_code(code))


def _halt(number: int, frame: FrameType | None) -> None:
    """Halts the main thread, so that it is not in the middle of a rename during the clean-up."""
    _halted.set()
    while True:
        time.sleep(60)


def _listen(reading: int, output: Callable[[], bytes]) -> None:
    """Waits for a signal in a separate thread; takes no lock that the halted main thread may hold."""
    while (number := os.read(reading, 1)[0]) not in _CODES:
        pass
    try:
        _clean_up(output)
    finally:  # also if stderr is closed
        os._exit(_CODES[signal.Signals(number)])


def _clean_up(output: Callable[[], bytes]) -> None:
    """Ends child processes, runs the clean-up functions, and writes the message and `output`."""
    process.end_all()
    _halted.wait(_HALT_SECONDS)
    process.end_all()  # children that were started in the meantime
    for sweep in reversed(_sweeps):
        with suppress(Exception):
            sweep()
    _flush()
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, _CLEAR_LINE)
        os.write(2, f"deploytool: interrupted\n  → {REMEDY}\n".encode())
    with suppress(Exception):
        os.write(1, output())


def _flush() -> None:
    """Flushes stdout and stderr; gives up after 0.2 s, because the halted thread may hold their locks."""
    flushing = threading.Thread(target=terminal.flush, daemon=True)
    flushing.start()
    flushing.join(0.2)
