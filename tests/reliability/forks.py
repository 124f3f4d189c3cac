"""Work in a child of its own, which may be killed: for campaigns, which import once and fork often."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def forked(work: Callable[[], None], said: Path) -> int:
    """Does it in a child; gives its process number. What it says goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        with said.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        work()
        code = 0
    except BaseException:  # a child must never come back into the parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
