"""What a command of the device has to say, for whichever door prints it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deploytool.errors import DeployError

Say = Callable[[str], None]  # takes a line on how far a command is


@dataclass(frozen=True)
class CommandOutput:
    """Lines for people, a document for programs, and how the command failed if it did.

    `verdict` is the place of the line that says most.
    """

    lines: tuple[str, ...]
    document: object
    failure: DeployError | None = None
    verdict: int = -1
