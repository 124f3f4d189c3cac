"""The output of a device command, independent of the command line that prints it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deploytool.errors import DeployError

Say = Callable[[str], None]  # takes one line of progress


@dataclass(frozen=True)
class CommandOutput:
    """The lines of text, the document for `--json`, and the failure of the command, if it failed.

    `verdict` is the index of the line that `--quiet` prints.
    """

    lines: tuple[str, ...]
    document: object
    failure: DeployError | None = None
    verdict: int = -1
