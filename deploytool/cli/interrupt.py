"""How a command stops: Ctrl-C and SIGTERM end it at once, whatever is running, and leave nothing half-made.

No KeyboardInterrupt is raised: a library deep in its own code may swallow one, or die of it (torch does while it is
loaded). What we make is whole or hidden at every moment anyway, so the process is halted, swept and ended from outside.
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
_HALT_SECONDS = 0.3  # what the main thread gets to come out of a library's code before we sweep
_FRESH_LINE = b"\r\x1b[2K\x1b[?25h"  # no progress bar, and the cursor back

_sweeps: list[Callable[[], None]] = []
_halted = threading.Event()


def install_handlers(words: Callable[[], bytes]) -> None:
    """From here on an interruption sweeps and ends the process; `words` goes to stdout then."""
    with suppress(OSError):  # on a machine that cannot be written there may be none, and looking around needs none
        own = scratch.make()
        tempfile.tempdir = os.environ["TMPDIR"] = str(own)  # for us and for our children
        _sweeps.append(partial(shutil.rmtree, own, ignore_errors=True))
        atexit.register(_sweeps[0])
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in _CODES:
        signal.signal(number, _halt)
    threading.Thread(target=_listen, args=(reading, words), daemon=True).start()


@contextmanager
def sweeping(sweep: Callable[[], None]) -> Iterator[None]:
    """Has `sweep` called if an interruption ends the process before this is left."""
    _sweeps.append(sweep)
    try:
        yield
    finally:
        _sweeps.remove(sweep)


def exit_on_signal(code: int) -> NoReturn:
    """Ends the process; all is done and said, and an interruption on the way out changes nothing.

    Nothing is taken apart, which takes torch half a second and serves nobody. Where stdout is gone, that is a failure.
    """
    for sweep in _sweeps[:1]:
        sweep()
    for number in _CODES:
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    os._exit(terminal.final_exit_code(code))


def _halt(number: int, frame: FrameType | None) -> None:
    """Holds the main thread, which is thus not in the middle of a rename while we sweep."""
    _halted.set()
    while True:
        time.sleep(60)


def _listen(reading: int, words: Callable[[], bytes]) -> None:
    """Waits for an interruption, in a thread of its own; it takes no lock that the halted thread may hold."""
    while (number := os.read(reading, 1)[0]) not in _CODES:
        pass
    try:
        _sweep_and_say(words)
    finally:  # also where nobody reads any more what we say
        os._exit(_CODES[signal.Signals(number)])


def _sweep_and_say(words: Callable[[], bytes]) -> None:
    process.end_all()
    _halted.wait(_HALT_SECONDS)
    process.end_all()  # also what was started meanwhile
    for sweep in reversed(_sweeps):
        with suppress(Exception):
            sweep()
    _flush()
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, _FRESH_LINE)
        os.write(2, b"deploytool: interrupted\n  \xe2\x86\x92 the same command goes on with what is finished\n")
    with suppress(Exception):
        os.write(1, words())


def _flush() -> None:
    """Lets out what was said, unless whoever was saying it holds the lock."""
    flushing = threading.Thread(target=terminal.flush, daemon=True)
    flushing.start()
    flushing.join(0.2)
