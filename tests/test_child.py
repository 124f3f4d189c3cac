from __future__ import annotations

import sys

import pytest

from deploytool.child import run_limited
from deploytool.errors import StageFailed


def run(program: str, seconds: float = 20.0, gibibytes: float = 1.0) -> str:
    return run_limited([sys.executable, "-c", program], what="the tool", seconds=seconds, gibibytes=gibibytes)


def test_what_it_says_comes_back() -> None:
    assert run("print('done')") == "done\n"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the tool was killed by SIGSEGV: it said nothing"),
        ("raise SystemExit('no such node')", "the tool ended with status 1: no such node"),
        ("bytearray(2 << 30)", "the tool ended with status 1: MemoryError"),
    ],
)
def test_how_it_ended_is_named(program: str, problem: str) -> None:
    with pytest.raises(StageFailed, match=problem):
        run(program)


def test_a_hang_is_stopped() -> None:
    with pytest.raises(StageFailed, match=r"the tool was stopped after 0\.5 s"):
        run("import time; time.sleep(60)", seconds=0.5)
