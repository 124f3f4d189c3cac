"""Runs a tool we do not trust with our memory or our time: in a child process with limits on both."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Sequence

from deploytool.errors import StageFailed

GIBIBYTE = 1 << 30


def run_limited(command: Sequence[str], *, what: str, seconds: float, gibibytes: float) -> str:
    """What `command` wrote on stdout; `what` is its name in messages.

    The limits are wall-clock seconds and gibibytes of address space.
    Raises StageFailed if it crashes, hangs, runs out of memory, or ends with a non-zero status.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (int(gibibytes * GIBIBYTE),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, preexec_fn=limit, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise StageFailed(f"{what} was stopped after {seconds:g} s", "give it more time, or leave it out") from None
    if done.returncode == 0:
        return done.stdout
    raise StageFailed(f"{what} {_ending(done.returncode)}: {_last_line(done.stderr)}", "leave it out, or report it")


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
