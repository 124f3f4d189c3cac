"""A worker module that writes its arguments and task to stdout, as JSON."""

from __future__ import annotations

import json
import sys


def main(*arguments: str) -> None:
    """Writes the arguments, the task, and the first folder of the import path."""
    sys.stdout.write(json.dumps([arguments, json.loads(sys.stdin.readline()), sys.path[0]]))
