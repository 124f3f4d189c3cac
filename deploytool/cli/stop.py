"""How a command stops: Ctrl-C and SIGTERM end it at once, whatever is running, and leave nothing half-made."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_GRACE_SECONDS = 1.0  # for an orderly end; a library deep in its own code may not give one
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_SHOW_CURSOR = b"\x1b[?25h"

_heard: list[int] = []
_words: list[Callable[[], None]] = []
_sweeps: list[Callable[[], None]] = []


def watch(words: Callable[[], None]) -> None:
    """From here on an interruption is a KeyboardInterrupt, and where that goes unheard, the end of the process.

    `words` says the last ones.
    """
    _words.append(words)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in _CODES:
        signal.signal(number, _interrupt)
    threading.Thread(target=_listen, args=(reading,), daemon=True).start()


def heard() -> bool:
    """Whether an interruption came."""
    return bool(_heard)


@contextmanager
def sweeping(sweep: Callable[[], None]) -> Iterator[None]:
    """Has `sweep` called if an interruption ends the process before this is left."""
    _sweeps.append(sweep)
    try:
        yield
    finally:
        if not _heard:
            _sweeps.remove(sweep)


def leave(code: int) -> NoReturn:
    """Ends the process; after an interruption with the code of that, and without another word."""
    if _heard:
        _end()
    for number in _CODES:
        signal.signal(number, lambda sent, _: os._exit(_CODES[signal.Signals(sent)]))
    sys.exit(code)


def _interrupt(number: int, _: FrameType | None) -> None:
    _note(number)
    raise KeyboardInterrupt


def _note(number: int) -> None:
    if not _heard:
        _heard.append(_CODES[signal.Signals(number)])
        sys.unraisablehook = lambda _: None  # an interruption that falls into a destructor is no news


def _listen(reading: int) -> None:
    """Ends what does not end by itself; a second interruption is not kept waiting. It runs in a thread of its own."""
    while (number := os.read(reading, 1)[0]) not in _CODES:
        pass
    _note(number)
    while select.select([reading], [], [], _GRACE_SECONDS)[0]:
        if os.read(reading, 1)[0] in _CODES:
            break
    _end()


def _end() -> NoReturn:
    """Sweeps and goes; children go with us (`child.run_limited` sees to that)."""
    for each in (*reversed(_sweeps), *_words, sys.stdout.flush, sys.stderr.flush):
        with suppress(Exception):
            each()
    if os.isatty(2):
        os.write(2, _SHOW_CURSOR)
    os._exit(_heard[0])
