"""`deploytool doctor`: what this machine can do, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

from deploytool import doctor as doctors
from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.cli.device import parameter
from deploytool.device import arguments
from deploytool.doctor import messages


def doctor(
    target: Annotated[str, parameter(arguments.BUILD_TARGET)] = "",
) -> Outcome:
    """Says what this machine can build, run and verify, finds known traps, and prints what mends them; mends nothing.

    It ends with 0 if an engine for --target can be built here, or without one if a bundle can be run here; else with 5.
    Examples: deploytool doctor · deploytool doctor --target rtx40
    """
    shown = doctors.examine(target)
    console = cli_console.stdout_console()
    for line in messages.lines(shown):
        cli_console.say(console, line)
    what = f"an engine for {target} can be built here" if target else "a bundle can be run here"
    return Outcome({"result": shown}, what, shown.failure)
